//! Ports of this machine that a test's server may listen on, also after it was restarted.
//!
//! A server that is started again listens where it did before, so its ports cannot be 0. They are
//! below those that the kernel gives to whoever asks for any (`ip_local_port_range`), and each is
//! locked by a file for as long as its test runs: no connection and no other test takes one while
//! its server is down.

use std::{
    fs::{self, File},
    net::TcpListener,
    ops::Range,
    os::unix::fs::OpenOptionsExt as _,
};

const RANGE: Range<u16> = 20_000..32_000;

/// A port of 127.0.0.1 that is this value's until it goes.
pub struct Port {
    number: u16,
    _lock: File,
}

impl Port {
    /// The first free one, looked for from a place that differs between processes.
    pub fn take() -> Port {
        let folder = std::env::temp_dir().join("bulkhead-test-ports");
        fs::create_dir_all(&folder).expect("a folder for the locks");
        let first = usize::try_from(std::process::id()).expect("it fits") * 16 % RANGE.len();
        let mut numbers = RANGE.cycle().skip(first).take(RANGE.len());
        let free = numbers.find_map(|number| {
            // Whatever somebody else may have put there is not touched.
            let mut options = File::options();
            let options = options
                .write(true)
                .create(true)
                .custom_flags(nix::libc::O_NOFOLLOW);
            let lock = options.open(folder.join(number.to_string())).ok()?;
            lock.try_lock().ok()?;
            TcpListener::bind(("127.0.0.1", number)).ok()?;
            Some(Port {
                number,
                _lock: lock,
            })
        });
        free.expect("a free port")
    }

    /// As a server's configuration names it.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.number)
    }
}

#[test]
fn two_that_are_held_differ_and_can_be_listened_on() {
    let (first, second) = (Port::take(), Port::take());
    assert_ne!(first.number, second.number);
    for port in [&first, &second] {
        assert!(TcpListener::bind(port.address()).is_ok());
    }
}
