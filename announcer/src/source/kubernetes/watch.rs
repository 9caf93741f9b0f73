//! Watches one kind of objects: lists all of them, then follows their changes from there, for as long as somebody listens.
//!
//! A watch that ends goes on where it was. If that is too long ago (410 Gone), or the API server says anything else against it
//! than that it has too much to do, everything is listed anew. And since a store that was wiped or restored counts its versions anew, so that going on
//! would miss what is gone, the cluster's identity is asked for after every failure: the UID of the namespace
//! `kube-system`. Failures are followed by growing pauses of random length, so that a server that comes back is not met by all
//! at once.

use std::time::{Duration, Instant};

use futures_util::{TryStreamExt, io::AsyncBufReadExt};
use kube::{
    Client,
    core::{
        Request, WatchEvent,
        params::{GetParams, ListParams, WatchParams},
    },
};
use rand::RngExt;
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::mpsc;

use super::watched::{Watched, metadata};
use crate::model::objects::Kind;

/// Objects of one answer.
const PAGE: u32 = 500;
/// The shortest and the longest pause after a failure; each is drawn from its upper half.
const PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));
/// A watch is ended by the server after so many seconds, and a random part more.
const LASTS: u32 = 240;
/// A watch that ends sooner without having said anything counts as a failure.
const TOO_SHORT: Duration = Duration::from_secs(1);

/// What there is to tell of a kind.
#[derive(Debug)]
pub(super) enum News {
    /// All of them follow, of the cluster with this identity.
    Listing(String),
    /// Some of them.
    Page(Vec<Value>),
    /// These were all.
    Listed,
    /// One is new or has changed.
    Changed(Value),
    /// One is gone.
    Gone(Value),
    /// It is being watched.
    Reached,
    /// It was not watched for too long; all of it will follow.
    Outdated,
    /// It cannot be watched, and why.
    Lost(String),
}

/// Why a watch ended.
enum Broken {
    /// It goes on from there.
    Resume(kube::Error),
    /// It begins anew.
    Relist(kube::Error),
    /// Nobody listens.
    Over,
}

impl From<kube::Error> for Broken {
    fn from(error: kube::Error) -> Self {
        match &error {
            // Too many requests at the moment; what is asked is all right.
            kube::Error::Api(status) if status.code == 429 => Self::Resume(error),
            kube::Error::Api(status) if (400..500).contains(&status.code) => Self::Relist(error),
            _ => Self::Resume(error),
        }
    }
}

/// Where news goes.
type Out = mpsc::Sender<(Watched, News)>;

/// Watches for as long as there is a listener.
pub(super) async fn watch(client: Client, what: Watched, news: Out) {
    let mut watcher = Watcher { client, what, news, version: None, identity: None, sure: false };
    let (mut failures, mut outdated) = (0, false);
    loop {
        let begun = Instant::now();
        let error = match watcher.go_on().await {
            Ok(()) if begun.elapsed() > TOO_SHORT => {
                failures = 0;
                continue;
            }
            Ok(()) => None,
            Err(Broken::Over) => return,
            Err(Broken::Resume(error)) => Some(error),
            Err(Broken::Relist(error)) => {
                watcher.version = None;
                Some(error)
            }
        };
        let was_outdated = std::mem::replace(&mut outdated, error.as_ref().is_some_and(is_gone));
        if begun.elapsed() > 2 * PAUSES.1 {
            failures = 0;
        }
        failures += 1;
        watcher.sure = false;
        let news = match error {
            // Nobody's fault, unless it goes on like that.
            Some(_) if outdated && !was_outdated => Some(News::Outdated),
            Some(error) => Some(News::Lost(format!("{}: {}", what.plural(), explain(&error)))),
            None => None,
        };
        if let Some(news) = news
            && watcher.tell(news).await.is_err()
        {
            return;
        }
        tokio::time::sleep(pause(failures)).await;
    }
}

/// How long to wait after so many failures in a row.
fn pause(failures: u32) -> Duration {
    let longest = PAUSES.0.saturating_mul(1 << failures.min(16)).min(PAUSES.1);
    longest.mul_f64(rand::rng().random_range(0.5..1.0))
}

/// Whether a watch began too long ago to go on: as ever after a restart of the API server, and nobody's fault.
fn is_gone(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 410)
}

/// What a person can do about it.
fn explain(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if status.code == 403 => {
            format!("{}; the service account lacks rights: apply the ClusterRole of deploy/crier.yaml", status.message)
        }
        kube::Error::Api(status) if status.code == 404 => {
            "the API server does not know this kind; apply the CustomResourceDefinitions of deploy/crier.yaml"
                .to_owned()
        }
        kube::Error::Api(status) => status.message.clone(),
        other => crate::app::with_causes(other),
    }
}

struct Watcher {
    client: Client,
    what: Watched,
    news: Out,
    /// Up to where everything is known.
    version: Option<String>,
    identity: Option<String>,
    /// Nothing has failed since the cluster was asked who it is.
    sure: bool,
}

#[derive(Deserialize)]
struct List {
    metadata: ListMetadata,
    #[serde(default = "Vec::new")]
    items: Vec<Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ListMetadata {
    resource_version: Option<String>,
    #[serde(rename = "continue")]
    more: Option<String>,
}

impl Watcher {
    async fn tell(&self, news: News) -> Result<(), Broken> {
        self.news.send((self.what, news)).await.map_err(|_| Broken::Over)
    }

    /// Lists what there is, or follows it until the server ends that.
    async fn go_on(&mut self) -> Result<(), Broken> {
        if !self.sure {
            let identity = identity(&self.client).await?;
            if self.identity.as_ref() != Some(&identity) {
                self.version = None;
                self.identity = Some(identity);
            }
            self.sure = true;
        }
        if self.version.is_none() {
            self.version = Some(self.list().await?);
        }
        self.follow().await
    }

    async fn list(&self) -> Result<String, Broken> {
        self.tell(News::Listing(self.identity.clone().unwrap_or_default())).await?;
        let request = Request::new(self.what.path(None));
        let mut page = ListParams::default().limit(PAGE);
        loop {
            let list: List = self.client.request(request.list(&page).map_err(kube::Error::BuildRequest)?).await?;
            self.tell(News::Page(list.items)).await?;
            page.continue_token = list.metadata.more.filter(|more| !more.is_empty());
            if page.continue_token.is_none() {
                self.tell(News::Listed).await?;
                return Ok(list.metadata.resource_version.unwrap_or_default());
            }
        }
    }

    async fn follow(&mut self) -> Result<(), Broken> {
        let lasts = LASTS + rand::rng().random_range(0..LASTS / 5);
        let params = WatchParams { timeout: Some(lasts), bookmarks: true, ..WatchParams::default() };
        let version = self.version.clone().unwrap_or_default();
        let request = Request::new(self.what.path(None)).watch(&params, &version).map_err(kube::Error::BuildRequest)?;
        // Not `request_events`, which takes a refusal for a watch that has begun.
        let mut lines = self.client.request_stream(request).await?.lines();
        self.tell(News::Reached).await?;
        while let Some(line) = lines.try_next().await.map_err(kube::Error::ReadEvents)? {
            let event: WatchEvent<Value> = serde_json::from_str(&line).map_err(kube::Error::SerdeError)?;
            let (object, gone) = match event {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => (object, false),
                WatchEvent::Deleted(object) => (object, true),
                WatchEvent::Bookmark(mark) => {
                    self.version = Some(mark.metadata.resource_version);
                    continue;
                }
                WatchEvent::Error(status) => return Err(Broken::Relist(kube::Error::Api(status))),
            };
            let version = metadata(&object, "resourceVersion");
            self.tell(if gone { News::Gone(object) } else { News::Changed(object) }).await?;
            self.version = version.or(self.version.take());
        }
        Ok(())
    }
}

/// Which cluster it is: the same for as long as its store lives.
async fn identity(client: &Client) -> Result<String, kube::Error> {
    let request = Request::new(Watched::Model(Kind::Namespace).path(None));
    let request = request.get("kube-system", &GetParams::default()).map_err(kube::Error::BuildRequest)?;
    let namespace: Value = client.request(request).await?;
    Ok(metadata(&namespace, "uid").unwrap_or_default())
}

#[cfg(test)]
mod tests;
