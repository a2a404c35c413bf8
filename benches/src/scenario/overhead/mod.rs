//! What a request passes through, with a model behind it that computes nothing: TLS, token, policy, admission, queue,
//! dispatch, a sealed worker, settlement, two durable audit records.
//!
//! Beside it, in the same run, answers a bare tonic echo: another process, the same TLS, the same messages from the same
//! client, and nothing else. What is above it is what Bulkhead adds. Both are driven from this process, on the same
//! processors: what the load itself takes is told, and no figure is corrected by it.

mod caller;
pub mod echo;
mod figures;
mod load;
mod usage;

use crate::{
    Failure, Figure,
    again::Again,
    args::{self, ServerArgs},
    server::Server,
    span::Span,
};
use bulkhead_client::Credentials;
use bulkhead_client::load::ms;
use caller::Caller;
use load::Seen;
use std::time::Duration;
use usage::Usage;

/// What agents ask for.
const MODEL: &str = "null";
/// Before anything is measured: workers start, connections and buffers grow.
const WARM_UP: Duration = Duration::from_secs(2);
/// Requests a second meanwhile.
const WARM_UP_RPS: u32 = 500;

/// One of the two sides at a pace.
struct Paced {
    seen: Seen,
    usage: Usage,
}

/// What was measured.
struct Measured {
    echo: Paced,
    ours: Paced,
    span: Span,
    echo_most: f64,
    ours_most: f64,
    most_usage: Usage,
    most_span: Span,
}

/// Runs the scenario.
pub async fn measure(args: &args::Overhead, server: &ServerArgs) -> Result<Vec<Figure>, Failure> {
    let mut server = server.clone();
    server.settings.insert(0, "models.null = true".into());
    let server = Server::start(&server).await?;
    let credentials = agents(&server, args).await?;
    let echo = echo::start(server.data()).await?;
    let measured = run(args, &server, &credentials, &echo).await;
    drop(echo);
    let measured = match measured {
        Ok(measured) => measured,
        Err(failure) => return Err(server.explain(&failure)),
    };
    server.stop().await?;
    Ok(figures::of(args, &measured))
}

/// Agents of all tenants, one of each tenant after the other.
async fn agents(server: &Server, args: &args::Overhead) -> Result<Vec<Credentials>, Failure> {
    let tenants = args.tenants as usize;
    let each = (args.agents as usize).div_ceil(tenants);
    let mut of_tenants = Vec::new();
    for nth in 0..tenants {
        of_tenants.push(
            server
                .agents(&format!("tenant-{nth}"), each)
                .await?
                .into_iter(),
        );
    }
    let mut agents = Vec::new();
    for _ in 0..each {
        agents.extend(of_tenants.iter_mut().filter_map(Iterator::next));
    }
    agents.truncate(args.agents as usize);
    Ok(agents)
}

async fn run(
    args: &args::Overhead,
    server: &Server,
    credentials: &[Credentials],
    echo: &Again,
) -> Result<Measured, Failure> {
    let lasts = Duration::from_secs(args.seconds);
    let mut to_ours = Vec::new();
    let mut to_echo = Vec::new();
    let echo_url = format!("https://{}", echo.address());
    for credentials in credentials {
        let ours = Caller::connect(credentials.clone()).await?;
        to_echo.push(ours.to(&echo_url).await?);
        to_ours.push(ours);
    }
    let warm = load::paced(&to_ours, WARM_UP_RPS, WARM_UP).await?;
    warm.must_be_complete("warming up")?;
    load::paced(&to_echo, WARM_UP_RPS, WARM_UP).await?;

    eprintln!("the echo: {} requests a second", args.rps);
    let usage = Usage::begin(&[("echo", echo.pid())])?;
    let seen = load::paced(&to_echo, args.rps, lasts).await?;
    let of_echo = Paced {
        usage: usage.end(seen.answered()),
        seen,
    };
    eprintln!("ours: {} requests a second", args.rps);
    let before = server.metrics().await?;
    let usage = Usage::begin(&server.processes()?)?;
    let seen = load::paced(&to_ours, args.rps, lasts).await?;
    let of_ours = Paced {
        usage: usage.end(seen.answered()),
        seen,
    };
    let span = Span::new(before, server.metrics().await?);

    eprintln!("as many as there can be: {} outstanding", args.outstanding);
    let echo_most = load::saturated(&to_echo, args.outstanding, lasts).await?;
    renew(&mut to_ours).await?;
    let before = server.metrics().await?;
    let usage = Usage::begin(&server.processes()?)?;
    let ours_most = load::saturated(&to_ours, args.outstanding, lasts).await?;
    let most_usage = usage.end(ours_most);
    let most_span = Span::new(before, server.metrics().await?);
    let rate = |answered: usize| answered as f64 * 1e3 / ms(lasts);
    Ok(Measured {
        echo: of_echo,
        ours: of_ours,
        span,
        echo_most: rate(echo_most),
        ours_most: rate(ours_most),
        most_usage,
        most_span,
    })
}

/// Fresh tokens, outside of what is measured.
async fn renew(callers: &mut [Caller]) -> Result<(), Failure> {
    for caller in callers {
        caller.renew().await?;
    }
    Ok(())
}
