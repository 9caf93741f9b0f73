//! `crierctl vips`.

use announcer::http::Status;

use crate::render::{Style, Tone, ago, cell, lines};

/// The VIPs as a table.
pub(crate) fn render(status: &Status, style: Style) -> String {
    if status.vips.is_empty() {
        return "no VIPs: no Service of type LoadBalancer has an address\n".to_owned();
    }
    let mut table = style.table(&["vip", "service", "owner", "standby", "epoch", "since", "reason"]);
    for vip in &status.vips {
        let owner = match &vip.owner {
            Some(owner) => cell(owner.as_str(), Tone::Plain),
            None => cell("nobody", Tone::Bad),
        };
        table.add_row([
            cell(vip.address.to_string(), Tone::Strong),
            cell(format!("{}/{}", vip.namespace, vip.service), Tone::Plain),
            owner,
            cell(vip.standby.as_ref().map(ToString::to_string).unwrap_or_default(), Tone::Plain),
            cell(vip.epoch.to_string(), Tone::Plain),
            cell(vip.since.map(|since| ago(since, status.now)).unwrap_or_default(), Tone::Plain),
            cell(&vip.reason, Tone::Plain),
        ]);
    }
    lines(&table)
}
