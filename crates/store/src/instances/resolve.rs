//! From what a person typed to an instance.

use clawfarm_model::{ClawId, Context, Error, Result};
use sea_orm::sea_query::Expr;
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect};

use super::read::{is_label_text, live};
use crate::convert::name;
use crate::entity::instance;
use crate::error::db;
use crate::guard::visible;
use crate::store::Store;

/// How many candidates an ambiguous name is answered with.
const CANDIDATES: usize = 5;

impl Store {
    /// The living instance that `text` means: the one of this id, or else the only one of this
    /// name, or else the only one whose id begins so.
    ///
    /// # Errors
    /// `NotFound` when nothing fits; `InvalidInput` on the field `id` with the candidates when
    /// several do.
    pub async fn resolve(&self, context: &Context, text: &str) -> Result<ClawId> {
        use instance::Column as C;
        if text.is_empty() || !is_label_text(text) {
            let shown: String = text.chars().take(60).flat_map(char::escape_default).collect();
            return Err(not_found(&shown));
        }
        for condition in [C::Id.eq(text), C::Name.eq(text), C::Id.starts_with(text)] {
            let (ids, more) = self.candidates(context, condition).await?;
            match ids.as_slice() {
                [] => {}
                [id] => return name("instance", id, id),
                several => return Err(ambiguous(text, several, more)),
            }
        }
        Err(not_found(text))
    }

    async fn candidates(&self, context: &Context, condition: Expr) -> Result<(Vec<String>, bool)> {
        let mut ids: Vec<String> = visible(live(instance::Entity::find()), context, instance::Column::Tenant)
            .select_only()
            .column(instance::Column::Id)
            .filter(condition)
            .order_by_asc(instance::Column::Id)
            .limit(CANDIDATES as u64 + 1)
            .into_tuple()
            .all(&self.0.reader)
            .await
            .map_err(db)?;
        let more = ids.len() > CANDIDATES;
        ids.truncate(CANDIDATES);
        Ok((ids, more))
    }
}

fn not_found(text: &str) -> Error {
    Error::not_found("instance", text)
}

fn ambiguous(text: &str, ids: &[String], more: bool) -> Error {
    let others = if more { " and others" } else { "" };
    Error::invalid("id", format!("'{text}' can be {}{others}", ids.join(", ")))
        .fix("give the whole id, or more of its beginning")
}
