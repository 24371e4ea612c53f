//! Asks the controller of the context that the line, or the environment, names.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::time::Instant;

use serde::Serialize;
use serde::de::DeserializeOwned;
use shoal_proto::v1::{
    ListFleetsRequest, ListHostsRequest, ListImagesRequest, ListInstancesRequest,
    ListSecretsRequest,
};

use super::cache::{Cache, Question};
use super::known::{Context, Fleet, Host, Image, Instance, Secret, Source};
use crate::client::Client;
use crate::clock;
use crate::connect::connect;
use crate::context::{self, ContextFile, default_path};

/// A [`Source`] that asks the controller what the cache does not know.
#[derive(Debug)]
pub(super) struct Asker {
    config: Option<PathBuf>,
    context: Option<String>,
    cache: Option<Cache>,
    deadline: Instant,
}

impl Asker {
    /// One for the line of these words. No question is waited for longer than until `deadline`.
    pub(super) fn new(words: &[OsString], deadline: Instant) -> Self {
        let home = std::env::home_dir();
        let said =
            |option, variable| option_in(words, option).or_else(|| std::env::var_os(variable));
        let config = said("--config", "SHOAL_CONFIG").map(|path| at_home(path, home.as_ref()));
        let context = said("--context", "SHOAL_CONTEXT");
        Self {
            config: config.or_else(|| default_path(home.clone()).ok()),
            context: context.and_then(|name| name.into_string().ok()),
            cache: Cache::of_this_user(home),
            deadline,
        }
    }

    fn contexts_file(&self) -> Option<ContextFile> {
        ContextFile::read(self.config.as_deref()?).ok()
    }

    fn chosen(&self) -> Option<context::Context> {
        let (_, context) = self.contexts_file()?.choose(self.context.as_deref()).ok()?;
        Some(context)
    }

    /// What the cache knows, or the controller. That it can't be asked is kept too, so that the
    /// next press of the key need not wait for it again.
    fn known<T: Serialize + DeserializeOwned>(
        &self,
        what: &str,
        ask: impl AsyncFnOnce(&Client) -> Option<Vec<T>>,
    ) -> Vec<T> {
        let Some(context) = self.chosen() else { return Vec::new() };
        let question = Question::new(what, &context);
        let cached = self.cache.as_ref().and_then(|cache| cache.answer(&question, clock::now()));
        if let Some(known) = cached {
            return known;
        }
        let known = self.ask(&context, ask).unwrap_or_default();
        if let Some(cache) = &self.cache {
            cache.keep(&question, &known, clock::now());
        }
        known
    }

    fn ask<T>(
        &self,
        context: &context::Context,
        ask: impl AsyncFnOnce(&Client) -> Option<Vec<T>>,
    ) -> Option<Vec<T>> {
        let left = self.deadline.checked_duration_since(Instant::now())?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
        let answer = runtime.block_on(async {
            let asking =
                async { ask(&Client::new(connect(context, left).await.ok()?, left)).await };
            tokio::time::timeout(left, asking).await.ok()?
        });
        // Not by dropping it: that would wait for a name server.
        runtime.shutdown_background();
        answer
    }
}

impl Source for Asker {
    fn hosts(&self) -> Vec<Host> {
        self.known("hosts", async |client: &Client| {
            let request = client.ask(ListHostsRequest::default());
            let answer = client.hosts().list(request).await.ok()?.into_inner();
            Some(answer.hosts.into_iter().filter_map(Host::read).collect())
        })
    }

    fn fleets(&self) -> Vec<Fleet> {
        self.known("fleets", async |client: &Client| {
            let request = client.ask(ListFleetsRequest::default());
            let answer = client.fleets().list(request).await.ok()?.into_inner();
            Some(answer.fleets.into_iter().filter_map(Fleet::read).collect())
        })
    }

    fn instances(&self) -> Vec<Instance> {
        self.known("instances", async |client: &Client| {
            let request = client.ask(ListInstancesRequest::default());
            let answer = client.instances().list(request).await.ok()?.into_inner();
            Some(answer.instances.into_iter().filter_map(Instance::read).collect())
        })
    }

    fn images(&self) -> Vec<Image> {
        self.known("images", async |client: &Client| {
            let request = client.ask(ListImagesRequest::default());
            let answer = client.images().list(request).await.ok()?.into_inner();
            Some(answer.images.into_iter().filter_map(Image::read).collect())
        })
    }

    fn secrets(&self) -> Vec<Secret> {
        self.known("secrets", async |client: &Client| {
            let request = client.ask(ListSecretsRequest {});
            let answer = client.secrets().list(request).await.ok()?.into_inner();
            Some(answer.secrets.into_iter().filter_map(Secret::read).collect())
        })
    }

    fn contexts(&self) -> Vec<Context> {
        let Some(file) = self.contexts_file() else { return Vec::new() };
        let read = |name: String| {
            let (name, context) = file.choose(Some(&name)).ok()?;
            let current = file.current() == Some(name.as_str());
            Some(Context { name, controller: context.controller, current })
        };
        file.names().into_iter().filter_map(read).collect()
    }
}

/// The value of a global option in a line that may be unfinished and wrong elsewhere. The last
/// word is still being typed, and what follows `--` is not ours.
fn option_in(words: &[OsString], option: &str) -> Option<OsString> {
    let (_, done) = words.split_last()?;
    let mut ours = done.iter().take_while(|word| *word != "--");
    let mut found = None;
    while let Some(word) = ours.next() {
        if word == option {
            found = ours.next().cloned().or(found);
        } else if let Some(value) = joined_value(word, option) {
            found = Some(value);
        }
    }
    found
}

/// The value in `--option=value`.
fn joined_value(word: &OsStr, option: &str) -> Option<OsString> {
    Some(word.to_str()?.strip_prefix(option)?.strip_prefix('=')?.into())
}

/// What a shell has not expanded yet: `~/` is the home directory.
fn at_home(path: OsString, home: Option<&PathBuf>) -> PathBuf {
    let path = PathBuf::from(path);
    match (path.strip_prefix("~"), home) {
        (Ok(below), Some(home)) => home.join(below),
        _ => path,
    }
}

#[cfg(test)]
mod tests;
