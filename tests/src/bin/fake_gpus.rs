//! In the place of `bulkhead-gpus`: the same packets, of a machine of pretend to which happens what is written
//! into a named pipe, a line at a time. `die` ends this process; while nothing is written it is silent, as one
//! that hangs.

use bulkhead_gpus::{process, watch};
use bulkhead_kernels::device::fake::FakeNvml;
use std::{
    error::Error,
    fs::File,
    io::{BufRead as _, BufReader},
    os::fd::AsFd as _,
};

/// GPUs that it begins with.
const GPUS: u32 = 2;

fn main() -> Result<(), Box<dyn Error>> {
    let connection = process::start()?;
    let pipe = std::env::args().nth(1).ok_or("the name of a pipe")?;
    let mut machine = FakeNvml::new(GPUS);
    watch::tell_once(&mut machine, connection.as_fd())?;
    for line in BufReader::new(File::open(pipe)?).lines() {
        let line = line?;
        if line == "die" {
            return Err("as told".into());
        }
        machine.happen(&line)?;
        watch::tell_once(&mut machine, connection.as_fd())?;
    }
    Ok(())
}
