//! The tamper-evident audit log and its process
