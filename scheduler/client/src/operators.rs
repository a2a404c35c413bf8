//! A client of the operators' port: plain HTTP on the loopback interface, reading only.

use crate::error::{ClientError, chain};
use bytes::Bytes;
use http::StatusCode;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use std::{error::Error, time::Duration};
use tokio::net::TcpStream;

/// How long one question may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Metrics of thousands of tenants stay below this, bytes.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// Asks one server's operators' port.
pub struct Operators {
    /// `HOST:PORT`.
    address: String,
}

impl Operators {
    /// From a URL such as `http://127.0.0.1:9464`.
    pub fn new(url: &str) -> Operators {
        let address = url.strip_prefix("http://").unwrap_or(url);
        Operators {
            address: address.trim_end_matches('/').to_owned(),
        }
    }

    /// True while the server says that it would serve requests.
    pub async fn ready(&self) -> bool {
        matches!(self.get("/readyz").await, Ok((StatusCode::OK, _)))
    }

    /// The greatest value of a metric over all its labels; `None` where it has none yet.
    pub async fn metric_max(&self, name: &str) -> Result<Option<f64>, ClientError> {
        Ok(self.metrics().await?.max(name))
    }

    /// All metrics as they are now.
    pub async fn metrics(&self) -> Result<Metrics, ClientError> {
        let (_, text) = self.get("/metrics").await?;
        Ok(Metrics(text))
    }

    async fn get(&self, path: &str) -> Result<(StatusCode, String), ClientError> {
        match tokio::time::timeout(TIMEOUT, self.exchange(path)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(self.unreachable(chain(error.as_ref()))),
            Err(_) => Err(self.unreachable("no answer".into())),
        }
    }

    async fn exchange(
        &self,
        path: &str,
    ) -> Result<(StatusCode, String), Box<dyn Error + Send + Sync>> {
        let stream = TcpStream::connect(&self.address).await?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let request = http::Request::get(path)
            .header("host", &self.address)
            .body(Empty::<Bytes>::new())?;
        tokio::spawn(connection);
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX)
            .collect()
            .await?;
        Ok((
            status,
            String::from_utf8_lossy(&body.to_bytes()).into_owned(),
        ))
    }

    fn unreachable(&self, message: String) -> ClientError {
        ClientError::Unreachable {
            address: self.address.clone(),
            message,
        }
    }
}

/// All metrics of a moment, in Prometheus' text format: `name{labels} value` or `name value`, comments
/// begin with `#`.
#[derive(Clone, Debug, Default)]
pub struct Metrics(String);

impl Metrics {
    /// The greatest value of a metric over all its labels; `None` where it has none yet.
    pub fn max(&self, name: &str) -> Option<f64> {
        self.values(name, "").reduce(f64::max)
    }

    /// The sum of a metric's values over all labels that hold `label` (as `name="value"`; "" for all).
    pub fn sum(&self, name: &str, label: &str) -> f64 {
        self.values(name, label).sum()
    }

    /// Of a histogram, over all labels that hold `label`: the upper bound of each of its buckets, ascending and
    /// infinity last, and how many values are at most that.
    pub fn buckets(&self, name: &str, label: &str) -> Vec<(f64, f64)> {
        let mut buckets: Vec<(f64, f64)> = Vec::new();
        let prefix = format!("{name}_bucket{{");
        let lines = self.0.lines().filter_map(|line| line.strip_prefix(&prefix));
        for line in lines.filter(|line| line.contains(label)) {
            let bound = line
                .split_once("le=\"")
                .and_then(|(_, rest)| rest.split_once('"'));
            let bound = bound.and_then(|(bound, _)| bound.replace("+Inf", "inf").parse().ok());
            let count = line
                .rsplit(' ')
                .next()
                .and_then(|count| count.parse::<f64>().ok());
            let (Some(bound), Some(count)) = (bound, count) else {
                continue;
            };
            match buckets.iter_mut().find(|(known, _)| *known == bound) {
                Some((_, sum)) => *sum += count,
                None => buckets.push((bound, count)),
            }
        }
        buckets.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
        buckets
    }

    fn values(&self, name: &str, label: &str) -> impl Iterator<Item = f64> {
        self.0
            .lines()
            .filter_map(move |line| line.strip_prefix(name))
            .filter(move |rest| rest.starts_with(['{', ' ']) && rest.contains(label))
            .filter_map(|rest| rest.rsplit(' ').next()?.parse().ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_read_over_all_its_labels() {
        let text =
            "# TYPE step_max gauge\nstep_max{model=\"a\"} 0.5\nstep_max 0.75\nstep_maximum 9\n";
        let metrics = Metrics(text.into());
        assert_eq!(metrics.max("step_max"), Some(0.75));
        assert_eq!(metrics.max("other"), None);
        assert_eq!(metrics.sum("step_max", ""), 1.25);
        assert_eq!(metrics.sum("step_max", "model=\"a\""), 0.5);
        assert_eq!(metrics.sum("other", ""), 0.0);
    }

    #[test]
    fn a_histograms_buckets_are_added_up_over_its_labels() {
        let text = "h_bucket{tenant=\"a\",le=\"0.1\"} 3\nh_bucket{tenant=\"a\",le=\"+Inf\"} 4\n\
                    h_bucket{tenant=\"b\",le=\"0.1\"} 1\nh_bucket{tenant=\"b\",le=\"+Inf\"} 1\nh_sum 9\n";
        let metrics = Metrics(text.into());
        assert_eq!(metrics.buckets("h", ""), [(0.1, 4.0), (f64::INFINITY, 5.0)]);
        let of_b = metrics.buckets("h", "tenant=\"b\"");
        assert_eq!(of_b, [(0.1, 1.0), (f64::INFINITY, 1.0)]);
        assert!(metrics.buckets("other", "").is_empty());
    }

    #[tokio::test]
    async fn a_port_without_a_server_is_not_ready() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        assert!(!Operators::new(&format!("http://{address}")).ready().await);
    }
}
