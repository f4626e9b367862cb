//! Metrics: typed handles for those who count, one text in OpenMetrics form for those who scrape.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

/// All metrics of this process. A cheap clone; every clone counts into the same numbers.
#[derive(Debug, Clone)]
pub struct Metrics {
    pub http: HttpMetrics,
    pub store: StoreMetrics,
    pub jobs: JobMetrics,
    registry: Arc<Registry>,
}

#[derive(Debug, Clone)]
pub struct HttpMetrics {
    requests: Family<Answered, Counter>,
    duration: Family<Route, Histogram, fn() -> Histogram>,
    pub in_flight: Gauge,
    pub connections: Gauge,
    pub bytes_received: Counter,
    pub bytes_sent: Counter,
    pub event_clients: Gauge,
}

/// What is stored, as it was measured at the last scrape.
#[derive(Debug, Clone, Default)]
pub struct StoreMetrics {
    pub blobs: Gauge,
    pub damaged_blobs: Gauge,
    pub stored_bytes: Gauge,
    pub images: Gauge,
    pub ingests: Gauge,
    pub ingest_bytes: Gauge,
    pub leases: Gauge,
    pub free_bytes: Gauge,
    /// 1 when the database answered, else 0; then the others are as they were.
    pub database_up: Gauge,
}

#[derive(Debug, Clone, Default)]
pub struct JobMetrics {
    pub pulls_queued: Gauge,
    pub pulls_running: Gauge,
    pulls_finished: Family<Ended, Counter>,
    pub fetched_bytes: Counter,
    pub unpacks_queued: Gauge,
    pub unpacks_running: Gauge,
    unpacks_finished: Family<Ended, Counter>,
    layers_unpacked: Counter,
    unpacked_bytes: Counter,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Ended {
    state: &'static str,
}

/// Labels by route template, never by path: a digest in a label would make a series of each blob.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Route {
    method: &'static str,
    route: Cow<'static, str>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answered {
    method: &'static str,
    route: Cow<'static, str>,
    status: u16,
}

impl HttpMetrics {
    /// Counts one finished request. `route` is the template of the path, not the path.
    pub fn answered(&self, method: &http::Method, route: Cow<'static, str>, status: u16, seconds: f64) {
        let method = method_label(method);
        self.duration.get_or_create(&Route { method, route: route.clone() }).observe(seconds);
        self.requests.get_or_create(&Answered { method, route, status }).inc();
    }
}

impl JobMetrics {
    /// A pull ended in `state`.
    pub fn pull_finished(&self, state: &'static str) {
        self.pulls_finished.get_or_create(&Ended { state }).inc();
    }

    /// An unpack ended in `state`.
    pub fn unpack_finished(&self, state: &'static str) {
        self.unpacks_finished.get_or_create(&Ended { state }).inc();
    }

    /// A layer whose blob has so many bytes became a snapshot.
    pub fn layer_unpacked(&self, size_bytes: u64) {
        self.layers_unpacked.inc();
        self.unpacked_bytes.inc_by(size_bytes);
    }
}

/// A method that a client invents does not become a label.
fn method_label(method: &http::Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        "OPTIONS" => "OPTIONS",
        _ => "other",
    }
}

/// From a cached range to a stored gigabyte.
fn duration_buckets() -> Histogram {
    Histogram::new([0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0])
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics::new()
    }
}

impl Metrics {
    /// Fresh metrics, all at zero; nothing here is global.
    pub fn new() -> Metrics {
        let mut registry = Registry::with_prefix("orlop");
        registry.register(
            "build",
            "The running program",
            Info::new([("version", env!("CARGO_PKG_VERSION"))]),
        );
        let http = HttpMetrics::register(registry.sub_registry_with_prefix("http"));
        let store = StoreMetrics::register(registry.sub_registry_with_prefix("store"));
        let jobs = JobMetrics::register(&mut registry);
        Metrics { http, store, jobs, registry: Arc::new(registry) }
    }

    /// Every metric.
    pub fn render(&self, form: MetricsForm) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)
            .expect("writing to a String does not fail");
        match form {
            MetricsForm::OpenMetrics => text,
            MetricsForm::Plain => plain(&text),
        }
    }
}

/// A form in which metrics are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricsForm {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// The text form of Prometheus, which is older and known to all.
    Plain,
}

impl MetricsForm {
    pub const fn content_type(self) -> &'static str {
        match self {
            MetricsForm::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            MetricsForm::Plain => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// OpenMetrics in the older form: there a family has the name of its samples, and is no info; of units and of an end it
/// knows nothing.
fn plain(open: &str) -> String {
    let kinds: HashMap<&str, &str> =
        open.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')).collect();
    let mut text = String::with_capacity(open.len());
    for line in open.lines() {
        let described = line.strip_prefix("# ").and_then(|rest| rest.split_once(' '));
        let (what, rest) = match described {
            Some((what @ ("HELP" | "TYPE"), rest)) => (what, rest),
            Some(("UNIT", _)) => continue,
            _ if line == "# EOF" => continue,
            Some(_) | None => {
                text.push_str(line);
                text.push('\n');
                continue;
            }
        };
        let (family, words) = rest.split_once(' ').unwrap_or((rest, ""));
        let (end, words) = match (kinds.get(family).copied(), what) {
            (Some("counter"), _) => ("_total", words),
            (Some("info"), "TYPE") => ("_info", "gauge"),
            (Some("info"), _) => ("_info", words),
            (Some(_) | None, _) => ("", words),
        };
        text.push_str(&format!("# {what} {family}{end} {words}\n"));
    }
    text
}

impl HttpMetrics {
    fn register(registry: &mut Registry) -> HttpMetrics {
        let metrics = HttpMetrics {
            requests: Family::default(),
            duration: Family::new_with_constructor(duration_buckets as fn() -> Histogram),
            in_flight: Gauge::default(),
            connections: Gauge::default(),
            bytes_received: Counter::default(),
            bytes_sent: Counter::default(),
            event_clients: Gauge::default(),
        };
        let m = &metrics;
        registry.register("requests", "Requests answered", m.requests.clone());
        registry.register_with_unit(
            "request_duration",
            "From the head of a request to the last byte of its answer",
            Unit::Seconds,
            m.duration.clone(),
        );
        registry.register("requests_in_flight", "Requests not yet answered in full", m.in_flight.clone());
        registry.register("connections", "Open connections", m.connections.clone());
        registry.register_with_unit(
            "received",
            "Bytes of request bodies",
            Unit::Bytes,
            m.bytes_received.clone(),
        );
        registry.register_with_unit("sent", "Bytes of response bodies", Unit::Bytes, m.bytes_sent.clone());
        registry.register("event_clients", "Open event streams", m.event_clients.clone());
        metrics
    }
}

impl StoreMetrics {
    fn register(registry: &mut Registry) -> StoreMetrics {
        let metrics = StoreMetrics::default();
        let m = &metrics;
        for (name, help, gauge) in [
            ("blobs", "Blobs stored", &m.blobs),
            ("damaged_blobs", "Blobs whose bytes are missing or damaged", &m.damaged_blobs),
            ("images", "Images, in all namespaces", &m.images),
            ("ingests", "Ingests not yet committed or aborted", &m.ingests),
            ("leases", "Leases that hold something now", &m.leases),
            ("database_up", "Whether the database answered the last scrape", &m.database_up),
        ] {
            registry.register(name, help, gauge.clone());
        }
        for (name, help, gauge) in [
            ("blob", "Bytes of the blobs stored", &m.stored_bytes),
            ("ingest", "Bytes of ingests not yet committed", &m.ingest_bytes),
            ("disk_free", "Bytes free on the data directory's file system", &m.free_bytes),
        ] {
            registry.register_with_unit(name, help, Unit::Bytes, gauge.clone());
        }
        metrics
    }
}

impl JobMetrics {
    fn register(registry: &mut Registry) -> JobMetrics {
        let metrics = JobMetrics::default();
        let m = &metrics;
        for (name, help, gauge) in [
            ("pulls_queued", "Pulls waiting for their turn", &m.pulls_queued),
            ("pulls_running", "Pulls under way", &m.pulls_running),
            ("unpacks_queued", "Unpacks waiting for their turn", &m.unpacks_queued),
            ("unpacks_running", "Unpacks under way", &m.unpacks_running),
        ] {
            registry.register(name, help, gauge.clone());
        }
        registry.register("pulls_finished", "Pulls ended, by how", m.pulls_finished.clone());
        registry.register("unpacks_finished", "Unpacks ended, by how", m.unpacks_finished.clone());
        let layers = m.layers_unpacked.clone();
        registry.register("layers_unpacked", "Layers made into snapshots, by pulls and unpacks", layers);
        for (name, help, counter) in [
            ("fetched", "Bytes fetched from registries", &m.fetched_bytes),
            ("unpacked", "Bytes of the blobs of layers made into snapshots", &m.unpacked_bytes),
        ] {
            registry.register_with_unit(name, help, Unit::Bytes, counter.clone());
        }
        metrics
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_is_rendered_as_openmetrics() {
        let metrics = Metrics::new();
        metrics.http.answered(&http::Method::GET, "/api/v1/content/{digest}".into(), 200, 0.002);
        let invented = http::Method::from_bytes(b"BREW").expect("a token");
        metrics.http.answered(&invented, "none".into(), 405, 0.0);
        metrics.http.bytes_sent.inc_by(7);
        metrics.jobs.pulls_running.set(1);
        let text = metrics.render(MetricsForm::OpenMetrics);
        for line in [
            "orlop_http_requests_total{method=\"GET\",route=\"/api/v1/content/{digest}\",status=\"200\"} 1",
            "orlop_http_requests_total{method=\"other\",route=\"none\",status=\"405\"} 1",
            "orlop_http_request_duration_seconds_count{method=\"GET\",route=\"/api/v1/content/{digest}\"} 1",
            "orlop_http_sent_bytes_total 7",
            "orlop_pulls_running 1",
            "orlop_store_ingests 0",
        ] {
            assert!(text.lines().any(|seen| seen == line), "no `{line}` in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }
}
