//! What people see, for the status that the agent's own golden test pins.

use announcer::http::Status;

use super::{backends, status, vips};
use crate::render::Style;

const PLAIN: Style = Style { colour: false };

fn example() -> Status {
    serde_json::from_str(include_str!("../../../announcer/src/http/testdata/status.json")).unwrap()
}

#[test]
fn the_status_reads_as_pinned() {
    let text = status::render(&example(), PLAIN);
    assert_eq!(
        text,
        include_str!("testdata/status.txt"),
        "if the change is meant, update testdata/status.txt:\n{text}"
    );
    assert!(text.lines().all(|line| line.trim_end() == line), "no line ends in spaces");
}

#[test]
fn colours_change_nothing_else() {
    let coloured = status::render(&example(), Style { colour: true });
    let mut plain = String::new();
    let mut escaped = false;
    for character in coloured.chars() {
        match character {
            '\x1b' => escaped = true,
            'm' if escaped => escaped = false,
            _ if escaped => {}
            other => plain.push(other),
        }
    }
    let squeezed = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(squeezed(&plain), squeezed(&status::render(&example(), PLAIN)));
    assert!(coloured.contains("\x1b[31m! web.yaml:12"), "problems are red: {coloured}");
}

#[test]
fn the_exit_code_tells_whether_the_agent_is_ready() {
    let mut answer = example();
    assert_eq!(status::code(&answer), 3);
    answer.ready = true;
    assert_eq!(status::code(&answer), 0);
}

#[test]
fn nothing_to_show_is_said_in_words() {
    let mut answer = example();
    answer.vips.clear();
    answer.backends.clear();
    assert!(vips::render(&answer, PLAIN).contains("no Service of type LoadBalancer"));
    assert!(backends::render(&answer, PLAIN).contains("no EndpointSlice"));
}

#[test]
fn a_lost_source_is_reported() {
    let mut answer = example();
    assert!(!status::render(&answer, PLAIN).contains("cannot be read"));
    answer.source.connected = false;
    assert!(status::render(&answer, PLAIN).contains("! the source cannot be read; the last good state is served\n"));
}
