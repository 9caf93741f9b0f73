//! How pods are probed: `HealthCheck` objects, the annotation `crier.io/health-check`, and the default.
//!
//! The annotation goes before objects that name the service, these before objects that select it by labels, and
//! these before the default: a TCP connection to the pod's port, for TCP ports. With the default times a pod that
//! refuses connections is out after three seconds at most.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{
    Check, CheckKind, HttpCheck, Protocol,
    objects::{HealthCheck, HttpCheckSpec, Labels, Scheme},
    problem::Complaint,
    selector,
    service::PortWish,
    weight::{self, Weight},
};

const INTERVAL: Duration = Duration::from_secs(1);
const TIMEOUT: Duration = Duration::from_millis(500);
const RISE: u32 = 2;
const FALL: u32 = 3;
const MIN_INTERVAL: Duration = Duration::from_millis(10);
const MAX_INTERVAL: Duration = Duration::from_secs(3600);
const MAX_COUNT: u32 = 100;
const MAX_SLOW_START: Duration = Duration::from_secs(3600);
/// What an HTTP probe accepts unless told otherwise: what kubelet's probes accept.
const EXPECT: (u16, u16) = (200, 399);

/// A health check, read.
#[derive(Debug, Clone)]
pub(super) struct CheckWish {
    /// `None`: no probing.
    pub(super) check: Option<Check>,
    /// The service port it is for; `None`: all.
    pub(super) port: Option<IntOrString>,
    /// Services by name, and by label.
    pub(super) services: Vec<String>,
    pub(super) selector: Option<k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector>,
    /// The pods' weights.
    pub(super) weights: Vec<Weight>,
}

impl CheckWish {
    /// How closely it is meant for a service: lower is closer; `None`: not at all.
    pub(super) fn distance(&self, service: &str, labels: &Labels) -> Option<(u8, bool)> {
        let distance = if self.services.iter().any(|name| name == service) {
            0
        } else if self.selector.as_ref().is_some_and(|selector| selector::matches(selector, labels)) {
            1
        } else {
            return None;
        };
        Some((distance, self.port.is_none()))
    }

    /// Whether it means this port.
    pub(super) fn names(&self, port: &PortWish) -> bool {
        match &self.port {
            None => true,
            Some(IntOrString::Int(number)) => *number == i32::from(port.port),
            Some(IntOrString::String(name)) => *name == port.name || *name == port.port.to_string(),
        }
    }

    /// Whether this port is probed by it. Without a port of its own, a probe (which is TCP) fits TCP ports only.
    pub(super) fn is_for(&self, port: &PortWish) -> bool {
        let possible = port.protocol == Protocol::Tcp || self.check.as_ref().is_none_or(|check| check.port.is_some());
        self.names(port) && possible
    }
}

/// The check of a port for which nobody asked for one.
pub(super) fn default_for(port: &PortWish) -> Option<Check> {
    (port.protocol == Protocol::Tcp).then(|| Times::default().check(CheckKind::Tcp, None))
}

#[derive(Default)]
struct Times {
    interval: Option<Duration>,
    timeout: Option<Duration>,
    rise: Option<u32>,
    fall: Option<u32>,
    slow_start: Option<Duration>,
}

impl Times {
    fn check(&self, kind: CheckKind, port: Option<u16>) -> Check {
        let interval = self.interval.unwrap_or(INTERVAL);
        Check {
            kind,
            port,
            interval,
            timeout: self.timeout.unwrap_or(TIMEOUT.min(interval)),
            rise: self.rise.unwrap_or(RISE),
            fall: self.fall.unwrap_or(FALL),
            slow_start: self.slow_start.unwrap_or_default(),
        }
    }

    /// What is wrong: key and message.
    fn fault(&self) -> Option<(&'static str, String)> {
        let interval = self.interval.unwrap_or(INTERVAL);
        if !(MIN_INTERVAL..=MAX_INTERVAL).contains(&interval) {
            return Some(("interval", "must be 10ms to 1h".to_owned()));
        }
        if self.timeout.is_some_and(|timeout| timeout < Duration::from_millis(1) || timeout > interval) {
            let interval = humantime::format_duration(interval);
            return Some(("timeout", format!("must be 1ms to the interval ({interval})")));
        }
        if self.slow_start.is_some_and(|time| time > MAX_SLOW_START) {
            return Some(("slowStart", "must be 0s (off) to 1h".to_owned()));
        }
        [("rise", self.rise), ("fall", self.fall)].into_iter().find_map(|(key, count)| {
            let wrong = count.is_some_and(|count| !(1..=MAX_COUNT).contains(&count));
            wrong.then(|| (key, format!("must be 1 to {MAX_COUNT}")))
        })
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|_| format!("{text:?} is not a duration like 500ms or 2s"))
}

/// Reads an object.
pub(super) fn read_object(object: &HealthCheck) -> (CheckWish, Vec<Complaint>) {
    let spec = &object.spec;
    let mut complaints = Vec::new();
    let mut time = |field: &str, text: Option<&String>| {
        text.and_then(|text| {
            duration(text).map_err(|error| complaints.push(Complaint::error(format!("spec.{field}"), error))).ok()
        })
    };
    let interval = time("interval", spec.interval.as_ref());
    let timeout = time("timeout", spec.timeout.as_ref());
    let slow_start = time("slowStart", spec.slow_start.as_ref());
    let times = Times { interval, timeout, rise: spec.rise, fall: spec.fall, slow_start };
    if let Some((field, message)) = times.fault() {
        complaints.push(Complaint::error(format!("spec.{field}"), message));
    }
    if spec.services.is_empty() && spec.service_selector.is_none() {
        complaints.push(Complaint::error("spec", "says for no service; add services: [NAME] or serviceSelector"));
    }
    complaints.extend(selector::vet("spec.serviceSelector", spec.service_selector.as_slice()));
    let weights = weight::read(&spec.weights, &mut complaints);
    let (kind, port) = match (&spec.tcp, &spec.http) {
        (Some(_), Some(_)) => {
            complaints.push(Complaint::error("spec.http", "a check is either tcp or http; remove one of them"));
            (CheckKind::Tcp, None)
        }
        (tcp, None) => (CheckKind::Tcp, tcp.as_ref().and_then(|tcp| tcp.port)),
        (None, Some(http)) => match read_http(http) {
            Ok(check) => (CheckKind::Http(check), http.port),
            Err((field, message)) => {
                complaints.push(Complaint::error(format!("spec.http.{field}"), message));
                (CheckKind::Tcp, None)
            }
        },
    };
    if port == Some(0) {
        let field = if spec.http.is_some() { "spec.http.port" } else { "spec.tcp.port" };
        complaints.push(Complaint::error(field, "must be 1 to 65535"));
    }
    let wish = CheckWish {
        check: Some(times.check(kind, port)),
        port: spec.port.clone(),
        services: spec.services.clone(),
        selector: spec.service_selector.clone(),
        weights,
    };
    (wish, complaints)
}

fn read_http(spec: &HttpCheckSpec) -> Result<HttpCheck, (String, String)> {
    let texts: Vec<_> = spec
        .expected_statuses
        .iter()
        .map(|status| match status {
            IntOrString::Int(number) => number.to_string(),
            IntOrString::String(text) => text.clone(),
        })
        .collect();
    http(spec.scheme == Scheme::Https, spec.path.as_deref(), spec.host.clone(), &texts).map_err(|(field, message)| {
        (if field == "expect" { "expectedStatuses".to_owned() } else { field.to_owned() }, message)
    })
}

fn http(
    tls: bool,
    path: Option<&str>,
    host: Option<String>,
    statuses: &[String],
) -> Result<HttpCheck, (&'static str, String)> {
    let path = path.filter(|path| !path.is_empty()).unwrap_or("/");
    if !path.starts_with('/') || path.bytes().any(|byte| !(0x21..0x7f).contains(&byte)) || path.len() > 1024 {
        return Err(("path", "must begin with / and hold no spaces or control characters".to_owned()));
    }
    let odd =
        |host: &String| host.is_empty() || host.len() > 253 || host.bytes().any(|byte| !(0x21..0x7f).contains(&byte));
    if host.as_ref().is_some_and(odd) {
        return Err(("host", "must be a host name, optionally with :PORT".to_owned()));
    }
    let mut expect = statuses.iter().map(|text| status_range(text)).collect::<Result<Vec<_>, _>>()?;
    if expect.is_empty() {
        expect.push(EXPECT);
    }
    expect.sort_unstable();
    expect.dedup();
    Ok(HttpCheck { tls, path: path.to_owned(), host, expect })
}

fn status_range(text: &str) -> Result<(u16, u16), (&'static str, String)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let code = |text: &str| text.trim().parse::<u16>().ok().filter(|code| (100..=599).contains(code));
    match (code(first), code(last)) {
        (Some(first), Some(last)) if first <= last => Ok((first, last)),
        _ => Err(("expect", format!("{text:?} is not a status code (200) or range (200-399) within 100 to 599"))),
    }
}

/// Reads the annotation: `none`, or `tcp[:PORT]` or `http[s][:PORT][/PATH]`, followed by any of `interval=`,
/// `timeout=`, `rise=`, `fall=`, `slowStart=`, and for HTTP `host=` and `expect=200-299,401`.
///
/// # Errors
/// What is wrong, with an example.
pub(super) fn read_annotation(text: &str) -> Result<CheckWish, String> {
    let mut words = text.split_whitespace();
    let what = words.next().unwrap_or_default();
    let wish = |check| CheckWish { check, port: None, services: Vec::new(), selector: None, weights: Vec::new() };
    if what == "none" {
        return match words.next() {
            None => Ok(wish(None)),
            Some(word) => Err(format!("{word:?} after none has no meaning")),
        };
    }
    let (target, path) = match what.find('/') {
        Some(slash) => (&what[..slash], Some(&what[slash..])),
        None => (what, None),
    };
    let (scheme, port) = match target.split_once(':') {
        Some((scheme, port)) => (scheme, Some(port)),
        None => (target, None),
    };
    let port = match port.map(str::parse::<u16>) {
        None => None,
        Some(Ok(port)) if port > 0 => Some(port),
        Some(_) => return Err(format!("{what:?}: the port must be a number from 1 to 65535")),
    };
    let (mut times, mut host, mut statuses) = (Times::default(), None, Vec::new());
    for word in words {
        let (key, value) = word.split_once('=').ok_or_else(|| format!("{word:?} is not KEY=VALUE"))?;
        let count = || value.parse::<u32>().map_err(|_| format!("{key}: {value:?} is not a number"));
        match key {
            "interval" => times.interval = Some(duration(value)?),
            "timeout" => times.timeout = Some(duration(value)?),
            "rise" => times.rise = Some(count()?),
            "fall" => times.fall = Some(count()?),
            "slowStart" => times.slow_start = Some(duration(value)?),
            "host" if scheme != "tcp" => host = Some(value.to_owned()),
            "expect" if scheme != "tcp" => statuses = value.split(',').map(str::to_owned).collect(),
            _ => {
                let hint =
                    crate::config::closest(key, ["interval", "timeout", "rise", "fall", "slowStart", "host", "expect"]);
                return Err(format!("{key:?} is not a parameter of {scheme}{hint}"));
            }
        }
    }
    if let Some((key, message)) = times.fault() {
        return Err(format!("{key}: {message}"));
    }
    let kind = match scheme {
        "tcp" if path.is_none() => CheckKind::Tcp,
        "http" | "https" => {
            let check = http(scheme == "https", path, host, &statuses);
            CheckKind::Http(check.map_err(|(key, message)| format!("{key}: {message}"))?)
        }
        _ => return Err(format!("{what:?} is not tcp, tcp:8080, http:8080/healthz, https:8443/healthz or none")),
    };
    Ok(wish(Some(times.check(kind, port))))
}
