//! A machine of pretend with GPUs of pretend, to whom anything can happen: for tests of what watches GPUs.
//!
//! It answers as NVML would and knows nothing of what is concluded. No program that ships names it.

use super::{DeviceInfo, DeviceKind, Process, Reading, Snapshot, Source, THROTTLE_THERMAL, Xid};

/// The memory of each GPU and of each instance, bytes.
pub const MEMORY_BYTES: u64 = 80 << 30;

/// The machine.
#[derive(Clone, Debug, Default)]
pub struct FakeNvml {
    devices: Vec<DeviceInfo>,
    unplugged: Vec<DeviceInfo>,
    xids: Vec<Xid>,
    /// How many times something was split: no instance ever has the unique id of another.
    splits: u32,
    broken: Option<String>,
}

impl FakeNvml {
    /// A machine with so many healthy GPUs, `cuda:0` and on.
    pub fn new(gpus: u32) -> FakeNvml {
        let gpu = |n| DeviceInfo {
            minor: Some(n),
            ..device(format!("cuda:{n}"), format!("GPU-{}", uuid(0, n.into())))
        };
        FakeNvml {
            devices: (0..gpus).map(gpu).collect(),
            ..FakeNvml::default()
        }
    }

    /// What happens next, in words: `unplug cuda:0`, `plug cuda:0`, `xid cuda:0 79`, `ecc cuda:0 1` (so many
    /// in all), `split cuda:0 2` (into instances; 0 makes it whole), `process cuda:0 4711 1048576` (bytes;
    /// 0 ends it), `hot cuda:0`, `cool cuda:0`, `mute cuda:0`, `hear cuda:0`, `break`, `look` (nothing).
    ///
    /// # Errors
    /// What is wrong with the words.
    pub fn happen(&mut self, words: &str) -> Result<(), String> {
        let parts: Vec<&str> = words.split_whitespace().collect();
        let number = |at: usize| -> Result<u64, String> {
            let word = parts.get(at).ok_or(format!("{words:?} lacks a number"))?;
            word.parse().map_err(|_| format!("{word:?} is no number"))
        };
        match parts.first().copied().unwrap_or_default() {
            "look" => return Ok(()),
            "break" => {
                self.broken = Some("the driver went away".to_owned());
                return Ok(());
            }
            _ => {}
        }
        let (what, id) = match parts[..] {
            [what, id, ..] => (what, id),
            _ => return Err(format!("{words:?} says nothing")),
        };
        if what == "plug" {
            let back = (self.unplugged).extract_if(.., |device| device.id == id);
            self.devices.extend(back);
            return Ok(());
        }
        let known = self.devices.iter_mut().find(|device| device.id == id);
        let device = known.ok_or(format!("no device {id:?}"))?;
        match what {
            "unplug" => {
                let gone = (self.devices).extract_if(.., |device| device.id == id);
                self.unplugged.extend(gone);
            }
            "xid" => self.xids.push(Xid {
                uuid: device.uuid.clone(),
                code: number(2)?,
            }),
            "ecc" => device.reading.ecc_uncorrected = Some(number(2)?),
            "hot" => device.reading.throttle = Some(THROTTLE_THERMAL),
            "cool" => device.reading.throttle = Some(0),
            "mute" => device.answers = false,
            "hear" => device.answers = true,
            "split" => self.split(id, number(2)?),
            "process" => {
                let (pid, memory_bytes) = (number(2)? as u32, number(3)?);
                device.reading.processes.retain(|one| one.pid != pid);
                if memory_bytes > 0 {
                    let process = Process { pid, memory_bytes };
                    device.reading.processes.push(process);
                }
                let all = device.reading.processes.iter();
                let taken = all.fold(0u64, |sum, one| sum.saturating_add(one.memory_bytes));
                device.memory_free_bytes = MEMORY_BYTES.saturating_sub(taken);
            }
            other => return Err(format!("nobody knows what {other:?} is")),
        }
        Ok(())
    }

    fn split(&mut self, id: &str, instances: u64) {
        self.splits += 1;
        let Some(gpu) = self.devices.iter_mut().find(|device| device.id == id) else {
            return;
        };
        gpu.split = instances > 0;
        let uuid = gpu.uuid.clone();
        self.devices
            .retain(|device| device.parent.as_ref() != Some(&uuid));
        for at in 0..instances {
            let name = format!("MIG-{}", self::uuid(self.splits, at));
            self.devices.push(DeviceInfo {
                parent: Some(uuid.clone()),
                ..device(format!("{id}/mig:{at}"), name)
            });
        }
    }
}

impl Source for FakeNvml {
    fn look(&mut self) -> Result<Snapshot, String> {
        if let Some(why) = &self.broken {
            return Err(why.clone());
        }
        Ok(Snapshot {
            devices: self.devices.clone(),
            xids: std::mem::take(&mut self.xids),
        })
    }
}

/// In the form that NVML writes.
fn uuid(first: u32, last: u64) -> String {
    format!("{first:08x}-0000-0000-0000-{last:012x}")
}

fn device(id: String, uuid: String) -> DeviceInfo {
    DeviceInfo {
        id,
        kind: DeviceKind::Cuda,
        name: "Pretended GPU".to_owned(),
        uuid,
        minor: None,
        parent: None,
        split: false,
        pcie: Some("0000:3b:00.0".to_owned()),
        numa_node: Some(0),
        memory_bytes: MEMORY_BYTES,
        memory_free_bytes: MEMORY_BYTES,
        answers: true,
        reading: Reading {
            utilisation_percent: Some(0),
            temperature_c: Some(40),
            power_mw: Some(70_000),
            throttle: Some(0),
            ecc_uncorrected: Some(0),
            processes: Vec::new(),
        },
    }
}
