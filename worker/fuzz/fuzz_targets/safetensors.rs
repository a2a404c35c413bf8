//! libFuzzer's way into the target `safetensors`.
#![no_main]

bulkhead_worker_fuzz::target!(safetensors);
