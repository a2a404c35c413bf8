//! End-to-end, security, fault and tidy tests
