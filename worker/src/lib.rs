//! The sealed worker: one tenant, one model, one device
