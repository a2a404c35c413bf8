//! The prefix cache is one tenant's: whatever another sent before, a prompt costs the same work.
//!
//! Shown by what workers count (tokens computed, tokens found) and not by time: equal work is why timing
//! tells nothing. The same figures show that a tenant's own agents do share, so they would show a tenant
//! that shares with another.

use bulkhead_tests::{
    agent::{Client, collect, prompt},
    models::{self, turn},
    options::Options,
    process,
    server::Server,
    wait::eventually,
};
use std::{fs::File, time::Duration};

const MODEL: &str = "smollm2";
const ANSWER_TOKENS: u32 = 4;
/// Keys and values are kept in blocks of so many tokens.
const BLOCK_TOKENS: u32 = 16;
/// Bytes of a block of keys and values.
const BLOCK_BYTES: u64 = 737_280;

/// A long prompt that begins with this name, so that no two share a block.
fn beginning_with(name: &str) -> String {
    format!("{name}. {}", "The ship carries grain and oil. ".repeat(50))
}

/// What a request cost.
#[derive(Debug, PartialEq, Eq)]
struct Cost {
    input_tokens: u32,
    /// Of those, what its receipt says was found in the cache.
    cached_tokens: u32,
    /// What its tenant's worker counted.
    computed: u64,
    found: u64,
}

impl Cost {
    /// All of the prompt, and the answer but for its last token.
    fn of_all(input_tokens: u32) -> Cost {
        Cost {
            input_tokens,
            cached_tokens: 0,
            computed: u64::from(input_tokens + ANSWER_TOKENS - 1),
            found: 0,
        }
    }

    /// Only what comes after the prompt's whole blocks.
    fn of_rest(input_tokens: u32) -> Cost {
        let cached_tokens = (input_tokens - 1) / BLOCK_TOKENS * BLOCK_TOKENS;
        let all = Cost::of_all(input_tokens);
        Cost {
            cached_tokens,
            computed: all.computed - u64::from(cached_tokens),
            found: cached_tokens.into(),
            ..all
        }
    }
}

struct House {
    server: Server,
    _turn: File,
}

impl House {
    async fn open() -> House {
        House::keeping(Duration::from_secs(3600)).await
    }

    /// What nobody used for so long is not kept.
    async fn keeping(idle: Duration) -> House {
        let turn = turn("models");
        let options = Options::models(models::dir())
            .with("models.prefix_cache", vec![MODEL])
            .with("models.prefix_cache_idle_ms", idle.as_millis() as i64);
        let server = Server::start(options).await;
        House {
            server,
            _turn: turn,
        }
    }

    async fn client(&self, tenant: &str, name: &str) -> Client {
        self.server.agent(tenant, name).await.client().await
    }

    async fn count(&self, what: &str, tenant: &str) -> u64 {
        let name = format!("bulkhead_engine_{what}");
        let label = format!("tenant=\"{tenant}\"");
        self.server.metric(&name, &label).await as u64
    }

    /// Waits until a tenant's cache holds so much and no more.
    async fn holds(&self, tenant: &str, bytes: u64) {
        eventually(
            Duration::from_secs(40),
            "the cache is that small",
            async || (self.count("cached_bytes", tenant).await <= bytes).then_some(()),
        )
        .await;
    }

    /// What a prompt costs its tenant.
    async fn cost(&self, tenant: &str, client: &Client, text: &str) -> Cost {
        let computed = self.count("tokens_computed_total", tenant).await;
        let found = self.count("tokens_cached_total", tenant).await;
        let request = prompt(MODEL, text, ANSWER_TOKENS);
        let stream = client.generate(request).await.expect("a stream");
        let answer = collect(stream).await.expect("an answer");
        let usage = answer.done.usage.expect("usage");
        let scrub = answer.done.receipt.and_then(|receipt| receipt.scrub);
        let kept = u64::from(usage.input_tokens / BLOCK_TOKENS) * BLOCK_BYTES;
        assert_eq!(scrub.expect("evidence").retained_bytes, kept);
        Cost {
            input_tokens: usage.input_tokens,
            cached_tokens: usage.cached_tokens,
            computed: self.count("tokens_computed_total", tenant).await - computed,
            found: self.count("tokens_cached_total", tenant).await - found,
        }
    }
}

#[tokio::test]
async fn a_prompt_costs_the_same_whatever_another_tenant_sent_before() {
    let house = House::open().await;
    let reader = house.client("acme", "reader").await;
    let known = beginning_with("The first");
    let first = house.cost("acme", &reader, &known).await;
    let tokens = first.input_tokens;
    assert!(tokens > 300, "{tokens}");
    assert_eq!(first, Cost::of_all(tokens));
    let again = house.cost("acme", &reader, &known).await;
    assert_eq!(again, Cost::of_rest(tokens), "its own tenant's");
    let colleague = house.client("acme", "colleague").await;
    let shared = house.cost("acme", &colleague, &known).await;
    assert_eq!(shared, again, "agents of one tenant share");

    // One that nobody sent and one that another tenant has in its cache: before and after its own
    // worker has begun to cache.
    let stranger = house.client("globex", "stranger").await;
    let sent = house.cost("globex", &stranger, &known).await;
    assert_eq!(sent, Cost::of_all(tokens));
    let unknown = beginning_with("Another");
    let unsent = house.cost("globex", &stranger, &unknown).await;
    assert_eq!(unsent, Cost::of_all(unsent.input_tokens));
    let later = beginning_with("The third");
    house.cost("acme", &reader, &later).await;
    let sent = house.cost("globex", &stranger, &later).await;
    assert_eq!(sent, Cost::of_all(sent.input_tokens));
}

/// Workers are forked from a process that has read the model: a tenant's next worker has nothing of what
/// its last one kept, and so has nobody else's.
#[tokio::test]
async fn nothing_that_was_kept_comes_through_the_template() {
    let house = House::open().await;
    let reader = house.client("acme", "reader").await;
    let text = beginning_with("The first");
    let first = house.cost("acme", &reader, &text).await;
    assert!(house.count("cached_bytes", "acme").await > 0);

    let templates = || house.server.processes("bulkhead-model");
    let template = templates()[0].pid;
    let worker = house.server.worker("acme").await;
    process::kill(worker);
    house.holds("acme", 0).await;
    let second = house.cost("acme", &reader, &text).await;
    assert_eq!(second, first, "all of it is computed again");
    assert_eq!(templates()[0].pid, template, "by another of its children");
    assert_ne!(house.server.worker("acme").await, worker);
}

/// Nobody asks anything meanwhile: its worker drops it by itself.
#[tokio::test]
async fn what_nobody_uses_for_a_time_is_not_kept() {
    let house = House::keeping(Duration::from_secs(1)).await;
    let reader = house.client("acme", "reader").await;
    let text = beginning_with("The first");
    let first = house.cost("acme", &reader, &text).await;
    house.holds("acme", 0).await;
    assert_eq!(house.cost("acme", &reader, &text).await, first);
}

#[tokio::test]
async fn what_a_revoked_agents_prompts_left_goes_with_it() {
    let house = House::open().await;
    let colleague = house.client("acme", "colleague").await;
    let kept = beginning_with("The colleague's");
    house.cost("acme", &colleague, &kept).await;
    let colleagues = house.count("cached_bytes", "acme").await;
    let leaver = house.server.agent("acme", "leaver").await;
    let text = beginning_with("The leaver's");
    house.cost("acme", &leaver.client().await, &text).await;
    assert!(house.count("cached_bytes", "acme").await > colleagues);

    let mut admin = house.server.admin().await;
    let revoked = admin.set_status(&leaver.id, "revoked").await;
    revoked.expect("the operator may");
    house.holds("acme", colleagues).await;
    let gone = house.cost("acme", &colleague, &text).await;
    assert_eq!(gone, Cost::of_all(gone.input_tokens));
    let kept = house.cost("acme", &colleague, &kept).await;
    assert_eq!(kept, Cost::of_rest(kept.input_tokens));
}
