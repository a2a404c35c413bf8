//! Bulkhead: server, launcher and command line
