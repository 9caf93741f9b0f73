//! `crierctl status`: everything at a glance.

use std::fmt::Write as _;

use announcer::http::Status;

use super::{backends, members, vips};
use crate::render::{Style, Tone, printable, span};

/// The agent answers, but is not ready.
const NOT_READY: u8 = 3;

/// The exit code for a status.
pub(crate) fn code(status: &Status) -> u8 {
    if status.ready { 0 } else { NOT_READY }
}

/// The whole status as text.
pub(crate) fn render(status: &Status, style: Style) -> String {
    let mut text = header(status, style);
    problems(&mut text, status, style);
    for (title, part) in [
        ("Members", members::render(status, style)),
        ("VIPs", vips::render(status, style)),
        ("Backends", backends::render(status, style)),
    ] {
        let _ = write!(text, "\n{}\n{part}", style.paint(title, Tone::Strong));
    }
    text
}

fn header(status: &Status, style: Style) -> String {
    let ready = if status.ready { style.paint("ready", Tone::Good) } else { style.paint("not ready", Tone::Bad) };
    let draining = if status.draining { style.paint(", draining", Tone::Bad) } else { String::new() };
    let up = status.now.duration_since(status.started).unwrap_or_default();
    let forwarder = match status.forwarder.mode.as_str() {
        "off" => "off (announces only)".to_owned(),
        _ => status.forwarder.interfaces.iter().map(|name| way(status, name)).collect::<Vec<_>>().join(", "),
    };
    let source = &status.source;
    let path = source.path.as_ref().map(|path| format!(" {path}")).unwrap_or_default();
    format!(
        "{}  crier {}, up {}, {ready}{draining}\nforwarder  {}\nsource     {}\n",
        style.paint(status.node.as_str(), Tone::Strong),
        printable(&status.version),
        span(up),
        printable(&forwarder),
        printable(&format!("{}{path}, {} objects", source.kind, source.objects)),
    )
}

/// By what an uplink's packets are carried.
fn way(status: &Status, interface: &str) -> String {
    let (mode, ways) = (&status.forwarder.mode, &status.forwarder.ways);
    let way = ways.get(interface).map_or(mode.as_str(), |way| way.split(':').next().unwrap_or(way));
    format!("{way} on {interface}")
}

/// What is wrong, a line each; nothing if nothing is.
fn problems(text: &mut String, status: &Status, style: Style) {
    let awaited = status.awaiting.iter().map(|what| format!("awaiting {what}"));
    let lost =
        (!status.source.connected).then(|| "the source cannot be read; the last good state is served".to_owned());
    let found = status.source.problems.iter().map(ToString::to_string);
    let asked = status.selftest.problems.iter().map(ToString::to_string);
    let strangers = status.conflicts.iter().map(|conflict| {
        let (vip, mac, on) = (conflict.vip, &conflict.mac, &conflict.interface);
        let ago = span(status.now.duration_since(conflict.last).unwrap_or_default());
        format!(
            "{vip} is also used by a machine outside the cluster: {mac} on {on}, heard {} times, last {ago} ago",
            conflict.times
        )
    });
    for line in awaited.chain(lost).chain(found).chain(asked).chain(strangers) {
        let _ = writeln!(text, "{}", style.paint(&format!("! {}", printable(&line)), Tone::Bad));
    }
}
