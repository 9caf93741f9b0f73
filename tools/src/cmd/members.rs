//! `crierctl members`.

use announcer::http::{Status, status::Member};

use crate::render::{Style, Tone, cell, lines};

/// The members as a table.
pub(crate) fn render(status: &Status, style: Style) -> String {
    let mut table = style.table(&["name", "address", "state"]);
    for member in &status.members {
        let (state, tone) = state(member);
        table.add_row([
            cell(member.name.as_str(), Tone::Plain),
            cell(member.address.to_string(), Tone::Plain),
            cell(state, tone),
        ]);
    }
    lines(&table)
}

fn state(member: &Member) -> (String, Tone) {
    let state = format!("{:?}", member.state).to_lowercase();
    if member.draining {
        return (format!("{state}, draining"), Tone::Bad);
    }
    (state, if member.state.is_up() { Tone::Good } else { Tone::Bad })
}
