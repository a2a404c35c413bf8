//! A request in Cedar's terms: who, what, which model, and the few facts that policies can speak of.

use crate::{Action, ModelFacts, PolicyError};
use bulkhead_identity::{Principal, Tenant};
use cedar_policy::{
    Context, Entities, Entity, EntityId, EntityTypeName, EntityUid, Request, RestrictedExpression,
    Schema,
};
use std::collections::{HashMap, HashSet};

/// Names of the schema, parsed once.
pub(crate) struct Names {
    tenant: EntityTypeName,
    agent: EntityTypeName,
    model: EntityTypeName,
    action: EntityTypeName,
}

/// Cedar refused what we built, which the schema of this program rules out.
#[derive(Debug)]
pub(crate) struct Unfit;

impl Names {
    pub(crate) fn new() -> Result<Names, PolicyError> {
        let parse = |name: &str| {
            name.parse()
                .map_err(|e: cedar_policy::ParseErrors| PolicyError::Invalid(e.to_string()))
        };
        Ok(Names {
            tenant: parse("Tenant")?,
            agent: parse("Agent")?,
            model: parse("Model")?,
            action: parse("Action")?,
        })
    }

    fn uid(kind: &EntityTypeName, id: &str) -> EntityUid {
        EntityUid::from_type_name_and_id(kind.clone(), EntityId::new(id))
    }

    /// The question and the entities that it is about.
    pub(crate) fn request(
        &self,
        schema: &Schema,
        principal: &Principal,
        action: Action,
        model: &ModelFacts<'_>,
        tenant: &Tenant,
    ) -> Result<(Request, Entities), Unfit> {
        let agent = Self::uid(&self.agent, principal.agent_id());
        let resource = Self::uid(&self.model, model.name);
        let scopes = principal.scopes().iter().map(|scope| text(scope.name()));
        let scopes = RestrictedExpression::new_set(scopes);
        let context = Context::from_pairs([("scopes".to_owned(), scopes)]).map_err(|_| Unfit)?;
        let request = Request::new(
            agent,
            Self::uid(&self.action, action.name()),
            resource,
            context,
            Some(schema),
        );
        let entities = [
            self.agent(principal)?,
            self.tenant(tenant)?,
            self.model(model)?,
        ];
        let entities = Entities::from_entities(entities, Some(schema)).map_err(|_| Unfit)?;
        Ok((request.map_err(|_| Unfit)?, entities))
    }

    fn agent(&self, principal: &Principal) -> Result<Entity, Unfit> {
        let tenant = Self::uid(&self.tenant, principal.tenant());
        let attributes = HashMap::from([
            ("name".to_owned(), text(principal.agent_name())),
            (
                "tenant".to_owned(),
                RestrictedExpression::new_entity_uid(tenant.clone()),
            ),
        ]);
        let uid = Self::uid(&self.agent, principal.agent_id());
        Entity::new(uid, attributes, HashSet::from([tenant])).map_err(|_| Unfit)
    }

    fn tenant(&self, tenant: &Tenant) -> Result<Entity, Unfit> {
        let models = RestrictedExpression::new_set(tenant.models.iter().map(|m| text(m)));
        let attributes = HashMap::from([
            ("name".to_owned(), text(&tenant.name)),
            ("models".to_owned(), models),
        ]);
        let uid = Self::uid(&self.tenant, &tenant.name);
        Entity::new(uid, attributes, HashSet::new()).map_err(|_| Unfit)
    }

    fn model(&self, model: &ModelFacts<'_>) -> Result<Entity, Unfit> {
        let mut attributes = HashMap::from([("name".to_owned(), text(model.name))]);
        if let Some(owner) = model.owner {
            let owner = RestrictedExpression::new_entity_uid(Self::uid(&self.tenant, owner));
            attributes.insert("owner".to_owned(), owner);
        }
        let uid = Self::uid(&self.model, model.name);
        Entity::new(uid, attributes, HashSet::new()).map_err(|_| Unfit)
    }
}

fn text(value: &str) -> RestrictedExpression {
    RestrictedExpression::new_string(value.to_owned())
}
