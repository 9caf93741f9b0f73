//! `crierctl backends`.

use std::{collections::BTreeMap, fmt::Write as _, net::SocketAddr};

use announcer::http::{Status, status::Backend};

use crate::render::{Style, Tone, cell, lines, printable};

/// The backends, a table for each service.
pub(crate) fn render(status: &Status, style: Style) -> String {
    let mut services: BTreeMap<(&str, &str), Vec<&Backend>> = BTreeMap::new();
    for backend in &status.backends {
        services.entry((&backend.namespace, &backend.service)).or_default().push(backend);
    }
    if services.is_empty() {
        return "no backends: no EndpointSlice belongs to a served Service\n".to_owned();
    }
    let tables = services.iter().map(|((namespace, service), backends)| {
        let usable = backends.iter().filter(|backend| backend.ready && backend.healthy != Some(false)).count();
        let mut text = style.paint(&printable(&format!("{namespace}/{service}")), Tone::Strong);
        let count = format!("{usable} of {} usable", backends.len());
        let tone = if usable == backends.len() { Tone::Plain } else { Tone::Bad };
        let _ = writeln!(text, "  {}", style.paint(&count, tone));
        text + &table(backends, style)
    });
    tables.collect::<Vec<_>>().join("\n")
}

fn table(backends: &[&Backend], style: Style) -> String {
    let mut table = style.table(&["pod", "node", "health", "reason"]);
    for backend in backends {
        let (health, tone) = health(backend);
        table.add_row([
            cell(SocketAddr::new(backend.address, backend.port).to_string(), Tone::Plain),
            cell(backend.node.as_ref().map_or("unknown", |node| node.as_str()), Tone::Plain),
            cell(health, tone),
            cell(&backend.reason, Tone::Plain),
        ]);
    }
    lines(&table)
}

fn health(backend: &Backend) -> (&'static str, Tone) {
    match (backend.ready, backend.healthy) {
        (false, _) => ("not ready", Tone::Bad),
        (true, Some(false)) => ("unhealthy", Tone::Bad),
        (true, Some(true)) => ("healthy", Tone::Good),
        (true, None) => ("ready, not probed", Tone::Plain),
    }
}
