//! A watch against a server that answers as an API server does, and breaks where a test wants it to.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::{Arc, Mutex},
};

use axum::{
    Json, Router,
    body::Body,
    extract::{Query, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::json;

use super::*;

#[test]
fn pauses_grow_to_half_a_minute_and_no_two_agents_keep_the_same() {
    assert!((1..4).all(|failures| pause(failures) < Duration::from_secs(2)));
    assert!((8..99).all(|failures| (PAUSES.1 / 2..=PAUSES.1).contains(&pause(failures))));
    let drawn: BTreeSet<_> = (0..20).map(|_| pause(9)).collect();
    assert!(drawn.len() > 10);
}

/// What comes of one watch.
enum Turn {
    /// These events, and then its end.
    Events(Vec<Value>),
    /// It is refused.
    Refused(u16),
    /// These events, and then another cluster.
    Wiped(Vec<Value>),
}

#[derive(Default)]
struct Server {
    identity: &'static str,
    turns: VecDeque<Turn>,
    /// From where watches were to go on.
    asked: Vec<String>,
    lists: usize,
}

type Shared = Arc<Mutex<Server>>;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Asked {
    watch: Option<bool>,
    resource_version: Option<String>,
}

fn service(name: &str, version: &str) -> Value {
    json!({"metadata": {"name": name, "namespace": "default", "resourceVersion": version}})
}

fn event(kind: &str, object: &Value) -> Value {
    json!({"type": kind, "object": object})
}

async fn identity_of(State(server): State<Shared>) -> Json<Value> {
    Json(json!({"metadata": {"name": "kube-system", "uid": server.lock().unwrap().identity}}))
}

async fn services(State(server): State<Shared>, Query(asked): Query<Asked>) -> Response {
    let mut server = server.lock().unwrap();
    if asked.watch != Some(true) {
        server.lists += 1;
        return Json(json!({"metadata": {"resourceVersion": "10"}, "items": [service("listed", "9")]})).into_response();
    }
    server.asked.push(asked.resource_version.unwrap_or_default());
    let lines = |events: Vec<Value>| Body::from(events.iter().map(|event| format!("{event}\n")).collect::<String>());
    match server.turns.pop_front() {
        Some(Turn::Events(events)) => lines(events).into_response(),
        Some(Turn::Wiped(events)) => {
            server.identity = "another";
            lines(events).into_response()
        }
        Some(Turn::Refused(code)) => {
            let status = json!({"status": "Failure", "message": "too old", "reason": "Expired", "code": code});
            (StatusCode::from_u16(code).unwrap(), Json(status)).into_response()
        }
        // Nothing more happens.
        None => Body::from_stream(futures_util::stream::pending::<Result<Vec<u8>, std::io::Error>>()).into_response(),
    }
}

/// Watches such a server until a watch was reached so often; what was told, and how the server was asked.
async fn watched(turns: Vec<Turn>, reached: usize) -> (Vec<News>, Vec<String>, usize) {
    let server = Arc::new(Mutex::new(Server { identity: "one", turns: turns.into(), ..Server::default() }));
    let router = Router::new()
        .route("/api/v1/services", get(services))
        .route("/api/v1/namespaces/kube-system", get(identity_of))
        .with_state(Arc::clone(&server));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    let client = Client::try_from(kube::Config::new(url.parse().unwrap())).unwrap();
    let (out, mut told) = mpsc::channel(16);
    tokio::spawn(watch(client, Watched::Model(Kind::Service), out));
    let mut news = Vec::new();
    while news.iter().filter(|one| matches!(one, News::Reached)).count() < reached {
        news.push(tokio::time::timeout(Duration::from_secs(20), told.recv()).await.unwrap().unwrap().1);
    }
    let server = server.lock().unwrap();
    (news, server.asked.clone(), server.lists)
}

fn losses(news: &[News]) -> Vec<&str> {
    news.iter().filter_map(|one| if let News::Lost(why) = one { Some(why.as_str()) } else { None }).collect()
}

#[tokio::test]
async fn a_watch_that_ends_goes_on_where_it_was() {
    let bookmark = json!({"type": "BOOKMARK", "object": {"kind": "Service", "apiVersion": "v1", "metadata": {
        "resourceVersion": "14", "creationTimestamp": null}}});
    let first = vec![event("ADDED", &service("new", "12")), event("DELETED", &service("listed", "13")), bookmark];
    let (news, asked, lists) = watched(vec![Turn::Events(first), Turn::Events(vec![])], 3).await;
    assert_eq!((asked, lists), (vec!["10".to_owned(), "14".to_owned(), "14".to_owned()], 1));
    assert!(matches!(news[0], News::Listing(ref one) if one == "one"));
    assert!(matches!((&news[1], &news[2]), (News::Page(page), News::Listed) if page.len() == 1));
    assert!(matches!((&news[4], &news[5]), (News::Changed(_), News::Gone(_))), "{news:?}");
    assert!(losses(&news).is_empty());
}

#[tokio::test]
async fn one_that_began_too_long_ago_lists_anew_and_blames_nobody() {
    let gone = json!({"type": "ERROR", "object": {"status": "Failure", "message": "too old", "reason": "Expired", "code": 410}});
    let told_late = Turn::Events(vec![event("ADDED", &service("new", "12")), gone]);
    for (turn, reached) in [(told_late, 2), (Turn::Refused(410), 1)] {
        let (news, asked, lists) = watched(vec![turn], reached).await;
        assert_eq!((asked, lists), (vec!["10".to_owned(), "10".to_owned()], 2), "{news:?}");
        assert!(losses(&news).is_empty());
        assert_eq!(news.iter().filter(|one| matches!(one, News::Outdated)).count(), 1);
    }
}

#[tokio::test]
async fn one_that_is_always_too_old_says_so() {
    let (news, _, lists) = watched(vec![Turn::Refused(410), Turn::Refused(410)], 1).await;
    assert_eq!((losses(&news), lists), (vec!["services: too old"], 3));
}

#[tokio::test]
async fn a_server_that_has_too_much_to_do_is_not_asked_for_everything() {
    // Of these the client itself tries some again.
    for code in [429, 500, 503] {
        let (news, asked, lists) = watched(vec![Turn::Refused(code)], 1).await;
        assert_eq!((asked, lists), (vec!["10".to_owned(), "10".to_owned()], 1), "{code}: {news:?}");
    }
}

#[tokio::test]
async fn one_that_is_refused_says_why_and_lists_anew() {
    let (news, _, lists) = watched(vec![Turn::Refused(403)], 1).await;
    assert_eq!(lists, 2);
    assert!(losses(&news)[0].contains("ClusterRole"), "{news:?}");
}

#[tokio::test]
async fn another_cluster_is_listed_anew_though_its_versions_would_go_on() {
    let (news, asked, lists) = watched(vec![Turn::Wiped(vec![event("ADDED", &service("new", "12"))])], 2).await;
    assert_eq!((asked, lists), (vec!["10".to_owned(), "10".to_owned()], 2));
    assert!(news.iter().any(|one| matches!(one, News::Listing(identity) if identity == "another")), "{news:?}");
}
