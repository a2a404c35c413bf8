//! libFuzzer's way into the target `gguf`.
#![no_main]

bulkhead_worker_fuzz::target!(gguf);
