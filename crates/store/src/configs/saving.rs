//! Saving a configuration.

use clawfarm_config::{Config, Template};
use clawfarm_model::event::NewEvent;
use clawfarm_model::{Action, Code, ConfigName, Error, Granted, Result};
use sea_orm::{
    ActiveModelTrait, ColumnTrait, EntityTrait, IntoActiveModel, PaginatorTrait, QueryFilter, QuerySelect,
};

use super::revisions::changes;
use super::{WHAT, key_of_leave, read};
use crate::audit::Outcome;
use crate::convert::{from_json, to_json};
use crate::entity::{config, config_revision};
use crate::error::db;
use crate::guard::{about, fits};
use crate::store::Store;
use crate::tx::{Tries, Tx};

/// The longest message of a revision, in characters.
const MESSAGE_MAX: usize = 2_000;
/// The longest content of a revision, in bytes of JSON.
const CONTENT_MAX: usize = 512 * 1024;
/// The most configurations of a tenant: they are listed in one answer, and each may be the template
/// of a fleet.
const CONFIGS_MAX: u64 = 1_000;

impl Store {
    /// Saves what a configuration says as its next revision, and makes it where there is none.
    /// What it says already is no revision. The leave is for [`Action::ConfigWrite`] on the
    /// `config` of this name.
    ///
    /// # Errors
    /// `PreconditionFailed` when it is no longer at `expect` (0: it is to be made);
    /// `InvalidInput` on `message` or `content` that is too long.
    pub async fn save_config(
        &self,
        granted: &Granted,
        name: &ConfigName,
        expect: Option<i64>,
        content: &Template,
        message: &str,
    ) -> Result<Config> {
        fits(granted, &[Action::ConfigWrite], WHAT)?;
        about(granted, granted.resource().tenant.as_str(), WHAT, name.as_str())?;
        if message.chars().count() > MESSAGE_MAX {
            return Err(Error::invalid("message", format!("it is longer than {MESSAGE_MAX} characters")));
        }
        let text = to_json(content)?;
        if text.len() > CONTENT_MAX {
            return Err(Error::invalid("content", format!("it is longer than {} KiB", CONTENT_MAX / 1024))
                .fix("put what is long into files of the claw's workspace"));
        }
        let mut tries = Tries::default();
        loop {
            match self.try_save(granted, name, expect, &text, message).await {
                Err(error) if tries.again(&error).await => {}
                other => return other,
            }
        }
    }

    async fn try_save(
        &self,
        granted: &Granted,
        name: &ConfigName,
        expect: Option<i64>,
        content: &str,
        message: &str,
    ) -> Result<Config> {
        let key = key_of_leave(granted, name);
        let mut tx = Tx::begin(&self.0).await?;
        // One that was removed numbers on: what a number stood for it stands for ever.
        let row = tx.config_ever(&key, name).await?;
        let present = row.clone().filter(|it| it.removed_at.is_none());
        check_version(name, present.as_ref(), expect)?;
        if let Some(row) = &present {
            let head = tx.content(&key, name, row.head).await?;
            if head == content {
                return read(row, None);
            }
        }
        if present.is_none() {
            tx.room_for_config(&key).await?;
        }
        let change_count = tx.changes_to(&key, name, present.as_ref().map(|it| it.head), content).await?;
        let now = tx.now.as_millis();
        let before = row;
        let row = config::Model {
            tenant: key.clone(),
            name: name.to_string(),
            head: before.as_ref().map_or(0, |it| it.head) + 1,
            published: present.as_ref().and_then(|it| it.published),
            version: before.as_ref().map_or(0, |it| it.version) + 1,
            created_at: present.as_ref().map_or(now, |it| it.created_at),
            updated_at: now,
            removed_at: None,
        };
        tx.put_config(before.as_ref(), row.clone()).await?;
        let revision = config_revision::Model {
            tenant: key.clone(),
            config: name.to_string(),
            number: row.head,
            author: granted.context().actor().to_string(),
            message: message.to_owned(),
            content: content.to_owned(),
            created_at: now,
            proven_at: None,
            over_revision: None,
            change_count,
        };
        config_revision::Entity::insert(revision.into_active_model())
            .exec_without_returning(tx.on())
            .await
            .map_err(db)?;
        let told = format!("configuration {name} was saved as revision {}", row.head);
        tx.event(granted.resource().tenant.as_str(), None, &NewEvent::info("config", told.clone()))?;
        tx.audit(granted, Outcome::Done, &told).await?;
        tx.commit().await?;
        read(&row, None)
    }
}

fn check_version(name: &ConfigName, present: Option<&config::Model>, expect: Option<i64>) -> Result<()> {
    match (present, expect) {
        (Some(row), Some(expected)) if row.version != expected => {
            let what = if expected == 0 {
                "exists already".to_owned()
            } else {
                format!("is at version {}, not {expected}", row.version)
            };
            Err(Error::new(Code::PreconditionFailed, format!("configuration '{name}' {what}"))
                .field("If-Match")
                .fix("read it again and repeat the change on what it is now"))
        }
        (None, Some(expected)) if expected != 0 => Err(Error::not_found(WHAT, name)),
        _ => Ok(()),
    }
}

impl Tx {
    /// The row of a configuration that there is.
    pub(super) async fn config(&self, key: &str, name: &ConfigName) -> Result<Option<config::Model>> {
        Ok(self.config_ever(key, name).await?.filter(|row| row.removed_at.is_none()))
    }

    /// The row of a configuration that there is, or was, locked against other changes of it.
    pub(super) async fn config_ever(&self, key: &str, name: &ConfigName) -> Result<Option<config::Model>> {
        config::Entity::find_by_id((key.to_owned(), name.to_string()))
            .lock_exclusive()
            .one(self.on())
            .await
            .map_err(db)
    }

    /// What a revision says, as it is stored.
    pub(super) async fn content(&self, key: &str, name: &ConfigName, number: i64) -> Result<String> {
        let row = config_revision::Entity::find_by_id((key.to_owned(), name.to_string(), number))
            .one(self.on())
            .await
            .map_err(db)?;
        Ok(row.map(|it| it.content).unwrap_or_default())
    }

    /// In how many places a content differs from that of a revision, or from nothing.
    async fn changes_to(
        &self,
        key: &str,
        name: &ConfigName,
        before: Option<i64>,
        content: &str,
    ) -> Result<i64> {
        let parsed = |text: &str| from_json::<Template>("revision", name.as_str(), text);
        let before = match before {
            Some(number) => parsed(&self.content(key, name, number).await?)?,
            None => Template::default(),
        };
        let count = changes(&before, &parsed(content)?).len();
        Ok(i64::try_from(count).unwrap_or(i64::MAX))
    }

    /// Refuses one more configuration where there are too many.
    async fn room_for_config(&self, key: &str) -> Result<()> {
        let count = config::Entity::find()
            .filter(config::Column::Tenant.eq(key))
            .filter(config::Column::RemovedAt.is_null())
            .count(self.on())
            .await
            .map_err(db)?;
        if count < CONFIGS_MAX {
            return Ok(());
        }
        Err(Error::new(Code::Conflict, format!("there are {CONFIGS_MAX} configurations, and no more can be"))
            .field("name")
            .fix("remove some that nobody goes by: clawfarm config rm; what differs from claw to claw is a variable of one template"))
    }

    /// Writes the row, unless somebody was faster.
    pub(super) async fn put_config(&self, before: Option<&config::Model>, row: config::Model) -> Result<()> {
        let Some(before) = before else {
            config::Entity::insert(row.into_active_model())
                .exec_without_returning(self.on())
                .await
                .map_err(changed_meanwhile)?;
            return Ok(());
        };
        let written = config::Entity::update_many()
            .set(row.into_active_model().reset_all())
            .filter(config::Column::Tenant.eq(before.tenant.as_str()))
            .filter(config::Column::Name.eq(before.name.as_str()))
            .filter(config::Column::Version.eq(before.version))
            .exec(self.on())
            .await
            .map_err(db)?;
        if written.rows_affected == 1 { Ok(()) } else { Err(conflict()) }
    }
}

fn changed_meanwhile(error: sea_orm::DbErr) -> Error {
    if crate::error::unique_violation(&error).is_some() { conflict() } else { db(error) }
}

fn conflict() -> Error {
    Error::new(Code::Conflict, "the configuration was changed by somebody else at the same moment")
        .fix("try again")
}
