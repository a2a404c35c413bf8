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

#[tokio::test]
async fn tenants_never_share_a_worker_and_the_scheduler_is_unprivileged() {
    let server = served(&["acme", "globex"]).await;
    let (acme, globex) = (server.worker("acme").await, server.worker("globex").await);
    assert_ne!(acme, globex);
    let scheduler = server.scheduler();
    assert_eq!(status_field(scheduler, "CapEff"), "0000000000000000");
    assert_eq!(status_field(scheduler, "NoNewPrivs"), "1");
    assert_ne!(server.audit(), scheduler);
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
