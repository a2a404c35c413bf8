//! What the policies in force have permitted before: the same question has the same answer.
//!
//! A policy can speak of nothing but the facts that are in [`Facts`] and the model's, and reads no clock, so an answer
//! holds for as long as the policies do: this lives and ends with them. Only permissions are kept; whatever is denied is
//! asked anew. Facts are told apart by where they are in memory: they never change there, and are held on to here, so
//! that nothing else can come to lie in their place.

use crate::{Action, ModelFacts};
use bulkhead_identity::{Principal, Scopes, Tenant};
use parking_lot::RwLock;
use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// Callers that are remembered; beyond that all are forgotten, and asked of again.
const CALLERS_MAX: usize = 65_536;

/// Callers with what each may do.
#[derive(Debug, Default)]
pub(crate) struct Permitted(RwLock<HashMap<Facts, Vec<Model>>>);

/// All that is known of a caller.
#[derive(Clone, Debug)]
struct Facts {
    agent: Arc<str>,
    agent_name: Arc<str>,
    agent_tenant: Arc<str>,
    tenant: Arc<str>,
    models: Arc<[String]>,
    scopes: Scopes,
    action: Action,
}

impl Facts {
    fn of(principal: &Principal, action: Action, tenant: &Tenant) -> Facts {
        Facts {
            agent: principal.agent_id().clone(),
            agent_name: principal.agent_name().clone(),
            agent_tenant: principal.tenant().clone(),
            tenant: tenant.name.clone(),
            models: tenant.models.clone(),
            scopes: principal.scopes(),
            action,
        }
    }

    fn places(&self) -> [*const (); 5] {
        [
            Arc::as_ptr(&self.agent).cast(),
            Arc::as_ptr(&self.agent_name).cast(),
            Arc::as_ptr(&self.agent_tenant).cast(),
            Arc::as_ptr(&self.tenant).cast(),
            Arc::as_ptr(&self.models).cast(),
        ]
    }
}

impl PartialEq for Facts {
    fn eq(&self, other: &Facts) -> bool {
        self.places() == other.places()
            // Where there are none, all lists may lie in one place.
            && self.models.len() == other.models.len()
            && (self.scopes, self.action) == (other.scopes, other.action)
    }
}

impl Eq for Facts {}

impl Hash for Facts {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.places().hash(state);
        self.scopes.hash(state);
        self.action.hash(state);
    }
}

#[derive(Debug)]
struct Model {
    name: Arc<str>,
    owner: Option<Box<str>>,
}

impl Permitted {
    /// The model's name, where this was permitted before.
    pub(crate) fn find(
        &self,
        principal: &Principal,
        action: Action,
        model: &ModelFacts<'_>,
        tenant: &Tenant,
    ) -> Option<Arc<str>> {
        if tenant.number != principal.tenant_number() {
            return None;
        }
        let known = self.0.read();
        let models = known.get(&Facts::of(principal, action, tenant))?;
        let same = |one: &&Model| &*one.name == model.name && one.owner.as_deref() == model.owner;
        models.iter().find(same).map(|one| one.name.clone())
    }

    /// Keeps that this is permitted. Returns the model's name.
    pub(crate) fn keep(
        &self,
        principal: &Principal,
        action: Action,
        model: &ModelFacts<'_>,
        tenant: &Tenant,
    ) -> Arc<str> {
        let name: Arc<str> = model.name.into();
        let mut known = self.0.write();
        if known.len() >= CALLERS_MAX {
            known.clear();
        }
        let models = known.entry(Facts::of(principal, action, tenant));
        models.or_default().push(Model {
            name: name.clone(),
            owner: model.owner.map(Into::into),
        });
        name
    }
}
