//! `crierctl flows`.

use std::{fmt::Write as _, net::SocketAddr, time::Duration};

use announcer::http::flows::Flows;
use anyhow::{Result, bail};
use serde_json::to_string_pretty;

use crate::{
    Outcome,
    args::Output,
    client::Agent,
    render::{Style, Tone, cell, lines, span},
};

/// Asks for the connections of a service, or of all, and shows so many.
pub(crate) async fn run(agent: &Agent, output: Output, service: Option<&str>, limit: usize) -> Result<Outcome> {
    let mut path = format!("/api/v1/flows?limit={limit}");
    if let Some(service) = service {
        // Names of objects have none of the characters that mean something in a query.
        if service.contains(|c: char| !(c.is_ascii_alphanumeric() || "-./".contains(c))) {
            bail!("{service} is no NAMESPACE/NAME of a Service");
        }
        let _ = write!(path, "&service={service}");
    }
    let flows = agent.flows(&path).await?;
    Ok(Outcome::ok(match output {
        Output::Json => to_string_pretty(&flows)? + "\n",
        Output::Table => render(&flows, Style::detect()),
    }))
}

/// The connections as a table.
pub(crate) fn render(flows: &Flows, style: Style) -> String {
    if flows.flows.is_empty() {
        return "no connections to this node's pods\n".to_owned();
    }
    let mut table = style.table(&["client", "service", "vip", "pod", "state", "idle"]);
    for flow in &flows.flows {
        let service = match (&flow.namespace, &flow.service) {
            (Some(namespace), Some(service)) => format!("{namespace}/{service}"),
            _ => "gone".to_owned(),
        };
        let vip = format!("{} {}", SocketAddr::new(flow.vip, flow.port), flow.protocol);
        let pod = flow.pod.map_or_else(|| "unknown".to_owned(), |pod| pod.to_string());
        let idle = if flow.idle == 0 { "0s".to_owned() } else { span(Duration::from_secs(flow.idle)) };
        let cells = [flow.client.to_string(), service, vip, pod, flow.state.replace('_', "-"), idle];
        table.add_row(cells.map(|text| cell(text, Tone::Plain)));
    }
    let mut text = lines(&table);
    if flows.more {
        let _ = writeln!(text, "and more: --limit N shows N of them, --service NAMESPACE/NAME those of one service");
    }
    text
}

#[cfg(test)]
mod tests {
    use announcer::http::flows::Flow;

    use super::*;

    #[test]
    fn connections_are_shown_with_what_is_known_of_them_and_that_there_are_more() {
        let flow = Flow {
            client: "[fd77::9]:40000".parse().unwrap(),
            vip: "fd77::100".parse().unwrap(),
            port: 80,
            protocol: "TCP".into(),
            namespace: Some("default".into()),
            service: Some("web".into()),
            pod: Some("[fd77:1::2]:8080".parse().unwrap()),
            state: "half_open".into(),
            idle: 65,
        };
        let gone = Flow { namespace: None, service: None, pod: None, state: "closing".into(), idle: 0, ..flow.clone() };
        let text = render(&Flows { flows: vec![flow, gone], more: true }, Style { colour: false });
        let words = |line: usize| text.lines().nth(line).unwrap().split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(words(0), "CLIENT SERVICE VIP POD STATE IDLE");
        assert_eq!(words(1), "[fd77::9]:40000 default/web [fd77::100]:80 TCP [fd77:1::2]:8080 half-open 1m 5s");
        assert_eq!(words(2), "[fd77::9]:40000 gone [fd77::100]:80 TCP unknown closing 0s");
        assert!(words(3).starts_with("and more"), "{text}");
        assert!(render(&Flows::default(), Style { colour: false }).contains("no connections"));
    }
}
