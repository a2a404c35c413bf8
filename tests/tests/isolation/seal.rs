//! A worker as the kernel sees it: one tenant's, with no privilege, no way to a file and no network.

use bulkhead_tests::{
    options::Options,
    process::{alive, as_root, namespace, open_files, status_field},
    server::Server,
};

async fn served(tenants: &[&str]) -> Server {
    let server = Server::start(Options::null(0)).await;
    for tenant in tenants {
        let client = server.agent(tenant, "reader").await.client().await;
        client.embed("null", &["a text"]).await.expect("served");
    }
    server
}

#[tokio::test]
async fn a_worker_has_no_privileges_and_a_filter() {
    let server = served(&["acme"]).await;
    let worker = server.worker("acme").await;
    assert_eq!(status_field(worker, "NoNewPrivs"), "1");
    assert_eq!(status_field(worker, "Seccomp"), "2", "2 is a filter");
    for set in ["CapEff", "CapPrm", "CapInh", "CapAmb", "CapBnd"] {
        let bits = u64::from_str_radix(&status_field(worker, set), 16).expect("hex");
        assert!(bits == 0 || set == "CapBnd", "{set} = {bits:x}");
    }
}

#[tokio::test]
async fn a_worker_holds_no_file_and_no_way_to_one() {
    if !as_root("seal::a_worker_holds_no_file_and_no_way_to_one") {
        return;
    }
    let server = served(&["acme"]).await;
    let worker = server.worker("acme").await;
    let log = server.data().join("serve.log");
    for file in open_files(worker) {
        let harmless = file.starts_with("socket:")
            || file.starts_with("pipe:")
            || file.starts_with("anon_inode:")
            || file == "/dev/null"
            || file == log.to_string_lossy();
        assert!(harmless, "a sealed worker holds {file} open");
    }
}

#[tokio::test]
async fn a_worker_has_a_network_of_its_own_with_nothing_in_it_or_no_sockets_at_all() {
    if !as_root("seal::a_worker_has_a_network_of_its_own_with_nothing_in_it_or_no_sockets_at_all") {
        return;
    }
    let server = served(&["acme"]).await;
    let worker = server.worker("acme").await;
    let mut admin = server.admin().await;
    let workers = admin.status().await.workers;
    let seal = &workers
        .iter()
        .find(|w| w.tenant == "acme")
        .expect("it serves")
        .seal;
    for layer in [
        "no_new_privs",
        "non_dumpable",
        "rlimits",
        "landlock",
        "seccomp",
    ] {
        assert!(
            seal.iter().any(|l| l == layer),
            "{layer} is reported: {seal:?}"
        );
    }
    // The filter leaves no way to make a socket; where a namespace could be had, it comes on top.
    let own = namespace(worker, "net") != namespace(server.pid(), "net");
    assert!(own || status_field(worker, "Seccomp") == "2");
}

/// What two workers of one model say that they have of their own, the kernel confirms: not the launcher's, and where it
/// is each worker's own not each other's either.
#[tokio::test]
async fn what_a_worker_says_that_it_is_apart_in_the_kernel_confirms() {
    if !as_root("seal::what_a_worker_says_that_it_is_apart_in_the_kernel_confirms") {
        return;
    }
    let server = served(&["acme", "globex"]).await;
    let workers = server.admin().await.status().await.workers;
    let of = |tenant: &str| workers.iter().find(|worker| worker.tenant == tenant);
    let (acme, globex) = (
        of("acme").expect("it serves"),
        of("globex").expect("it serves"),
    );
    let says = |layer: &str| {
        let said = [acme, globex].map(|worker| worker.seal.iter().any(|one| one == layer));
        assert_eq!(said[0], said[1], "{layer}: both or neither");
        said[0]
    };
    let (one, two) = (acme.pid, globex.pid);
    for (layer, kind) in [
        ("userns", "user"),
        ("netns", "net"),
        ("ipcns", "ipc"),
        ("utsns", "uts"),
        ("pidns", "pid"),
        ("mntns", "mnt"),
    ] {
        let apart = |other| namespace(one, kind) != namespace(other, kind);
        assert_eq!(
            says(layer),
            apart(server.pid()),
            "{layer}, from the launcher"
        );
        // No file system can be changed after Landlock, so the empty one is its model's workers'.
        if says(layer) && layer != "mntns" {
            assert!(apart(two), "{layer}, from a sibling");
        }
    }
    if says("mntns") {
        let root = std::fs::read_dir(format!("/proc/{one}/root")).expect("it has a root");
        assert_eq!(root.count(), 0, "nothing is in sight");
    }
    if says("pidns") {
        let numbers = status_field(one, "NSpid");
        assert_eq!(
            numbers.split_whitespace().next_back(),
            Some("1"),
            "{numbers}"
        );
    }
    let users = [one, two, server.pid()].map(|pid| status_field(pid, "Uid"));
    assert_eq!(says("own_uid"), users[0] != users[2], "{users:?}");
    assert_eq!(says("own_uid"), users[0] != users[1], "{users:?}");
}

#[tokio::test]
async fn tenants_never_share_a_worker_and_the_scheduler_is_unprivileged() {
    let server = served(&["acme", "globex"]).await;
    let (acme, globex) = (server.worker("acme").await, server.worker("globex").await);
    assert_ne!(acme, globex);
    let scheduler = server.scheduler();
    assert_eq!(status_field(scheduler, "CapEff"), "0000000000000000");
    assert_eq!(status_field(scheduler, "NoNewPrivs"), "1");
    let audit = server.audit();
    assert_ne!(audit, scheduler);
    // Root's too: it owns what it writes.
    let sets = ["CapEff", "CapPrm"];
    let held = sets.map(|set| status_field(audit, set));
    assert!(
        held.iter().all(|bits| bits == "0000000000000000"),
        "{held:?}"
    );
}

#[tokio::test]
async fn no_process_outlives_the_server() {
    let mut server = served(&["acme"]).await;
    let worker = server.worker("acme").await;
    let others = [worker, server.scheduler(), server.audit()];
    assert_eq!(server.stop().await, Some(0));
    for pid in others {
        assert!(!alive(pid), "{pid} is still there");
    }
}
