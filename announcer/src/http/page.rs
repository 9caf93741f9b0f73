//! The status page: one self-contained HTML document without scripts, that reloads itself.
//!
//! Names in it come from objects that others write, so everything goes through [`escape`].

use std::fmt::Write as _;

use super::status::{Backend, Member, Status, Vip};

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:70em;margin:2em auto;padding:0 1em;color:#222;\
background:#fff}table{border-collapse:collapse;width:100%;margin-bottom:2em}th,td{text-align:left;padding:.25em .8em \
.25em 0;border-bottom:1px solid #ddd}th{font-weight:600}.bad{color:#b00020}.good{color:#18794e}.dim{color:#777}\
code{font-size:.95em}@media(prefers-color-scheme:dark){body{color:#ddd;background:#161616}th,td{border-color:#333}\
.bad{color:#ff6b6b}.good{color:#5fd38d}}";

/// The page of a status.
pub(super) fn render(status: &Status) -> String {
    let mut page = String::with_capacity(4096);
    let node = escape(status.node.as_str());
    let _ = write!(
        page,
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta http-equiv=\"refresh\" content=\"5\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>Crier on {node}</title><style>{STYLE}</style>\
         </head><body><h1>Crier on {node}</h1>"
    );
    header(&mut page, status);
    problems(&mut page, status);
    table(&mut page, "VIPs", &["VIP", "service", "owner", "epoch", "since", "reason"], &status.vips, vip);
    table(&mut page, "Members", &["name", "address", "state"], &status.members, member);
    table(&mut page, "Backends", &["service", "pod", "node", "health", "reason"], &status.backends, backend);
    page.push_str(
        "<p><a href=\"/metrics\">metrics</a> · <a href=\"/api/v1/status\">JSON</a> · <a href=\"/readyz\">readiness</a></p>\
         </body></html>\n",
    );
    page
}

fn header(page: &mut String, status: &Status) {
    let (class, word) = if status.ready { ("good", "ready") } else { ("bad", "not ready") };
    let draining = if status.draining { ", <span class=\"bad\">draining</span>" } else { "" };
    let forwarder = match status.forwarder.mode.as_str() {
        "off" => "off".to_owned(),
        mode => format!("{} on {}", escape(mode), escape(&status.forwarder.interfaces.join(", "))),
    };
    let _ = write!(
        page,
        "<p>version {}, <span class=\"{class}\">{word}</span>{draining}; forwarder {forwarder}; source {} {}, {} objects</p>",
        escape(&status.version),
        escape(&status.source.kind),
        escape(status.source.path.as_deref().unwrap_or_default()),
        status.source.objects,
    );
}

fn problems(page: &mut String, status: &Status) {
    let lost = (!status.source.connected).then(|| "the source cannot be read; serving the last good state".to_owned());
    let found = status.source.problems.iter().map(ToString::to_string);
    let asked = status.selftest.problems.iter().map(ToString::to_string);
    let lines: Vec<String> = status.awaiting.iter().cloned().chain(lost).chain(found).chain(asked).collect();
    if lines.is_empty() {
        return;
    }
    page.push_str("<ul class=\"bad\">");
    for line in lines {
        let _ = write!(page, "<li>{}</li>", escape(&line));
    }
    page.push_str("</ul>");
}

/// A table of `items`, whose cells `row` gives as HTML.
fn table<T, const N: usize>(
    page: &mut String,
    title: &str,
    heads: &[&str; N],
    items: &[T],
    row: fn(&T) -> [String; N],
) {
    let _ = write!(page, "<h2>{title}</h2>");
    if items.is_empty() {
        page.push_str("<p class=\"dim\">none</p>");
        return;
    }
    page.push_str("<table><tr>");
    for head in heads {
        let _ = write!(page, "<th>{head}</th>");
    }
    page.push_str("</tr>");
    for item in items {
        page.push_str("<tr>");
        for cell in row(item) {
            let _ = write!(page, "<td>{cell}</td>");
        }
        page.push_str("</tr>");
    }
    page.push_str("</table>");
}

fn vip(vip: &Vip) -> [String; 6] {
    let owner = vip
        .owner
        .as_ref()
        .map_or_else(|| "<span class=\"bad\">nobody</span>".to_owned(), |owner| escape(owner.as_str()));
    let since = vip.since.map(|since| humantime::format_rfc3339_seconds(since).to_string());
    [
        format!("<code>{}</code>", vip.address),
        escape(&format!("{}/{}", vip.namespace, vip.service)),
        owner,
        vip.epoch.to_string(),
        since.unwrap_or_default(),
        escape(&vip.reason),
    ]
}

fn member(member: &Member) -> [String; 3] {
    let class = if member.state.is_up() { "good" } else { "bad" };
    let state = format!("{:?}", member.state).to_lowercase();
    let draining = if member.draining { ", draining" } else { "" };
    [
        escape(member.name.as_str()),
        format!("<code>{}</code>", member.address),
        format!("<span class=\"{class}\">{state}{draining}</span>"),
    ]
}

fn backend(backend: &Backend) -> [String; 5] {
    let health = match (backend.ready, backend.healthy) {
        (false, _) => "<span class=\"bad\">not ready</span>",
        (true, Some(false)) => "<span class=\"bad\">unhealthy</span>",
        (true, Some(true)) => "<span class=\"good\">healthy</span>",
        (true, None) => "<span class=\"dim\">ready, not probed</span>",
    };
    [
        escape(&format!("{}/{}", backend.namespace, backend.service)),
        format!("<code>{}</code>", std::net::SocketAddr::new(backend.address, backend.port)),
        backend.node.as_ref().map(|node| escape(node.as_str())).unwrap_or_default(),
        health.to_owned(),
        escape(&backend.reason),
    ]
}

/// Text made safe as HTML content and as a quoted attribute.
fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            other => safe.push(other),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::status::tests::example;

    #[test]
    fn everything_on_the_page_is_escaped() {
        let mut status = example();
        let evil = "<script>\"'&";
        let (vip, backend) = (&mut status.vips[0], &mut status.backends[0]);
        for text in [
            &mut status.version,
            &mut vip.namespace,
            &mut vip.service,
            &mut vip.reason,
            &mut backend.namespace,
            &mut backend.service,
            &mut backend.reason,
            &mut status.source.kind,
            &mut status.source.problems[0].message,
            &mut status.forwarder.mode,
            &mut status.forwarder.interfaces[0],
            &mut status.awaiting[0],
            &mut status.selftest.problems[0].message,
        ] {
            *text = evil.to_owned();
        }
        status.source.path = Some(evil.to_owned());
        let page = render(&status);
        assert!(!page.contains("<script") && !page.contains("<b>"), "{page}");
        assert_eq!(page.matches("&lt;script&gt;&quot;&#39;&amp;").count(), 14, "{page}");
    }

    #[test]
    fn the_page_says_what_is_wrong() {
        let page = render(&example());
        for text in ["Crier on n1", "not ready", "nobody", "unhealthy", "99999 is not a port", "10.77.0.100"] {
            assert!(page.contains(text), "no {text:?} in {page}");
        }
    }
}
