//! libFuzzer's way into the target `tokenizer`.
#![no_main]

bulkhead_worker_fuzz::target!(tokenizer);
