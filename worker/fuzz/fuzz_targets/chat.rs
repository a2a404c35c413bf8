//! libFuzzer's way into the target `chat`.
#![no_main]

bulkhead_worker_fuzz::target!(chat);
