//! This program again, in a process of its own, as a server that a scenario compares with.
//!
//! It says where it is reached on its first line, and ends with whoever started it. It measures nothing itself.

use crate::Failure;
use std::{ffi::OsStr, net::SocketAddr, process::Stdio};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
};

/// A running one. It ends with this value.
pub struct Again {
    address: String,
    pid: i32,
    _child: Child,
}

impl Again {
    /// Starts one with these arguments and waits until it says where it is.
    pub async fn start<A: AsRef<OsStr>>(
        args: impl IntoIterator<Item = A>,
    ) -> Result<Again, Failure> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let pid = i32::try_from(child.id().ok_or("what it compares with has ended")?)?;
        let said = child
            .stdout
            .take()
            .ok_or("what it compares with says nothing")?;
        let mut address = String::new();
        BufReader::new(said).read_line(&mut address).await?;
        match address.trim() {
            "" => Err("what it compares with did not start; it said why above".into()),
            address => Ok(Again {
                address: address.to_owned(),
                pid,
                _child: child,
            }),
        }
    }

    /// Where it is: address and port.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Its process.
    pub fn pid(&self) -> i32 {
        self.pid
    }
}

/// Has such a process end with whoever started it, however that ends.
pub fn end_with_parent() -> Result<(), Failure> {
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
    Ok(())
}

/// Says in such a process where it is reached.
pub fn announce(address: SocketAddr) {
    println!("{address}");
}
