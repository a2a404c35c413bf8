//! `bulkhead top`: tenants and their shares, workers, and devices, anew each second.

use super::{Outcome, output};
use crate::{
    cli::{Globals, Top},
    client::Admin,
};
use bulkhead_proto::v1::{DeviceStatus, StatusResponse, TenantStatus, WorkerStatus};
use serde::Serialize;
use std::{
    io::{self, IsTerminal as _},
    process::ExitCode,
    time::Duration,
};

const REFRESH: Duration = Duration::from_secs(1);
/// Clears the terminal and goes to its top left corner.
const CLEAR: &str = "\x1b[2J\x1b[H";

/// A round in JSON.
#[derive(Serialize)]
struct View<'a> {
    version: &'a str,
    audit_up: bool,
    tenants: Vec<TenantView<'a>>,
    workers: Vec<WorkerView<'a>>,
    devices: Vec<DeviceView<'a>>,
}

#[derive(Serialize)]
struct TenantView<'a> {
    name: &'a str,
    weight: u32,
    queued: u64,
    running: u64,
    lane_ns: u64,
    completed: u64,
}

#[derive(Serialize)]
struct WorkerView<'a> {
    tenant: &'a str,
    model: &'a str,
    device: &'a str,
    pid: i32,
    state: &'a str,
    seal: &'a [String],
    kv_bytes: u64,
}

#[derive(Serialize)]
struct DeviceView<'a> {
    name: &'a str,
    uuid: &'a str,
    health: &'a str,
    why: &'a str,
    serves: bool,
    lanes: u32,
    workers: u32,
    memory_bytes: u64,
    usable_bytes: u64,
}

pub fn run(globals: &Globals, args: Top) -> Outcome {
    let data = globals.data_dir()?;
    output::block_on(async {
        let admin = Admin::connect(&data).await?;
        let clears = !args.once && io::stdout().is_terminal();
        loop {
            let status = admin.status().await?;
            match args.json {
                true => output::json_line(&view(&status))?,
                false if clears => output::line(&format!("{CLEAR}{}", screen(&status)))?,
                false => output::line(&screen(&status))?,
            }
            if args.once {
                return Ok(ExitCode::SUCCESS);
            }
            tokio::select! {
                () = tokio::time::sleep(REFRESH) => {}
                _ = tokio::signal::ctrl_c() => return Ok(ExitCode::SUCCESS),
            }
        }
    })?
}

fn view(status: &StatusResponse) -> View<'_> {
    View {
        version: &status.version,
        audit_up: status.audit_up,
        tenants: status.tenants.iter().map(tenant_view).collect(),
        workers: status.workers.iter().map(worker_view).collect(),
        devices: status.devices.iter().map(device_view).collect(),
    }
}

fn tenant_view(tenant: &TenantStatus) -> TenantView<'_> {
    TenantView {
        name: &tenant.name,
        weight: tenant.weight,
        queued: tenant.queued,
        running: tenant.running,
        lane_ns: tenant.lane_ns,
        completed: tenant.completed,
    }
}

fn worker_view(worker: &WorkerStatus) -> WorkerView<'_> {
    WorkerView {
        tenant: &worker.tenant,
        model: &worker.model,
        device: &worker.device,
        pid: worker.pid,
        state: &worker.state,
        seal: &worker.seal,
        kv_bytes: worker.kv_bytes,
    }
}

fn device_view(device: &DeviceStatus) -> DeviceView<'_> {
    DeviceView {
        name: &device.name,
        uuid: &device.uuid,
        health: &device.health,
        why: &device.why,
        serves: device.serves,
        lanes: device.lanes,
        workers: device.workers,
        memory_bytes: device.memory_bytes,
        usable_bytes: device.usable_bytes,
    }
}

fn screen(status: &StatusResponse) -> String {
    let audit = if status.audit_up {
        "up"
    } else {
        "DOWN: requests are refused"
    };
    format!(
        "bulkhead {}   audit log {audit}\n\n{}\n\n{}\n\n{}",
        status.version,
        tenants(&status.tenants),
        workers(&status.workers),
        devices(&status.devices)
    )
}

fn tenants(tenants: &[TenantStatus]) -> String {
    let owed_ns: u64 = tenants.iter().map(|t| t.owed_ns).sum();
    let lane_ns: u64 = tenants.iter().map(|t| t.lane_ns).sum();
    let rows = tenants.iter().map(|tenant| {
        vec![
            tenant.name.clone(),
            tenant.weight.to_string(),
            percent(tenant.owed_ns, owed_ns),
            percent(tenant.lane_ns, lane_ns),
            format!("{:.2} s", tenant.lane_ns as f64 / 1e9),
            tenant.queued.to_string(),
            tenant.running.to_string(),
            output::grouped(tenant.completed),
        ]
    });
    output::table(
        &[
            "tenant",
            "weight>",
            "owed>",
            "received>",
            "lane time>",
            "queued>",
            "running>",
            "completed>",
        ],
        rows,
    )
}

fn workers(workers: &[WorkerStatus]) -> String {
    let rows = workers.iter().map(|worker| {
        vec![
            worker.tenant.clone(),
            worker.model.clone(),
            worker.device.clone(),
            worker.pid.to_string(),
            worker.state.clone(),
            output::bytes(worker.kv_bytes),
            format!("{} layers", worker.seal.len()),
        ]
    });
    output::table(
        &[
            "worker of",
            "model",
            "device",
            "pid>",
            "state",
            "KV>",
            "seal",
        ],
        rows,
    )
}

fn devices(devices: &[DeviceStatus]) -> String {
    let rows = devices.iter().map(|device| {
        let health = match device.why.as_str() {
            "" => device.health.clone(),
            why => format!("{} ({why})", device.health),
        };
        let memory = match device.memory_bytes {
            0 => "-".into(),
            all => format!(
                "{} of {}",
                output::bytes(device.usable_bytes),
                output::bytes(all)
            ),
        };
        let serves = if device.serves { "yes" } else { "no" };
        vec![
            device.name.clone(),
            health,
            serves.into(),
            device.lanes.to_string(),
            device.workers.to_string(),
            memory,
        ]
    });
    output::table(
        &[
            "device", "health", "serves", "lanes>", "workers>", "memory>",
        ],
        rows,
    )
}

fn percent(part: u64, whole: u64) -> String {
    match whole {
        0 => "-".into(),
        whole => format!("{:.0} %", 100.0 * part as f64 / whole as f64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(name: &str, owed_ns: u64, lane_ns: u64) -> TenantStatus {
        TenantStatus {
            name: name.into(),
            weight: 1,
            owed_ns,
            lane_ns,
            ..TenantStatus::default()
        }
    }

    #[test]
    fn shares_owed_and_received_stand_side_by_side() {
        let text = tenants(&[
            tenant("acme", 3_000_000_000, 2_000_000_000),
            tenant("globex", 1_000_000_000, 2_000_000_000),
        ]);
        for part in ["75 %", "25 %", "50 %", "2.00 s"] {
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn a_device_that_is_bad_says_why_and_serves_nobody() {
        let text = devices(&[DeviceStatus {
            name: "cuda:0".into(),
            health: "bad".into(),
            why: "xid_79".into(),
            memory_bytes: 80 << 30,
            usable_bytes: 79 << 30,
            ..DeviceStatus::default()
        }]);
        for part in ["cuda:0", "bad (xid_79)", "no"] {
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn an_idle_server_has_no_shares_to_show() {
        assert_eq!(percent(0, 0), "-");
        let empty = StatusResponse::default();
        assert!(screen(&empty).contains("DOWN"));
    }
}
