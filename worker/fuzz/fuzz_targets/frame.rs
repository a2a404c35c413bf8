//! libFuzzer's way into the target `frame`.
#![no_main]

bulkhead_worker_fuzz::target!(read_frames);
