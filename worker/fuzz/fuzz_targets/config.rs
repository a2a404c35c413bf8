//! libFuzzer's way into the target `config`.
#![no_main]

bulkhead_worker_fuzz::target!(config);
