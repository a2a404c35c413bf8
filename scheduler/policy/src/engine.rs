//! The decision, and the policies in force.

use crate::decision::{Action, Denied, ModelFacts, Permit};
use crate::entities::Names;
use crate::load::{self, DEFAULT_PREFIX, PolicyError};
use crate::permitted::Permitted;
use bulkhead_identity::{Principal, Tenant};
use cedar_policy::{AuthorizationError, Authorizer, Decision, PolicyId, PolicySet, Schema};
use parking_lot::RwLock;
use std::path::Path;
use std::sync::Arc;

/// Decides what callers may do. Shared by reference between threads.
pub struct PolicyEngine {
    schema: Schema,
    names: Names,
    authorizer: Authorizer,
    in_force: RwLock<Arc<InForce>>,
}

/// Policies, and what they have permitted so far.
struct InForce {
    policies: PolicySet,
    permitted: Permitted,
}

impl InForce {
    fn new(policies: PolicySet) -> Arc<InForce> {
        Arc::new(InForce {
            policies,
            permitted: Permitted::default(),
        })
    }
}

impl PolicyEngine {
    /// The default policies, with those of the folder where one is given.
    pub fn new(folder: Option<&Path>) -> Result<PolicyEngine, PolicyError> {
        let schema = load::schema()?;
        let names = Names::new()?;
        let in_force = RwLock::new(InForce::new(load::policies(&schema, folder)?));
        Ok(PolicyEngine {
            schema,
            names,
            authorizer: Authorizer::new(),
            in_force,
        })
    }

    /// Puts the folder's policies, as they are now, in the place of those in force. On an error the
    /// ones in force stay. Answers how many are in force then, default ones included.
    pub fn reload(&self, folder: &Path) -> Result<usize, PolicyError> {
        let policies = load::policies(&self.schema, Some(folder))?;
        let count = policies.num_of_policies();
        *self.in_force.write() = InForce::new(policies);
        Ok(count)
    }

    /// How many policies are in force, default ones included.
    pub fn policies(&self) -> usize {
        self.in_force.read().policies.num_of_policies()
    }

    /// Whether this caller may do this with this model. `tenant` is the caller's own.
    pub fn authorize(
        &self,
        principal: &Principal,
        action: Action,
        model: &ModelFacts<'_>,
        tenant: &Tenant,
    ) -> Result<Permit, Denied> {
        let in_force = self.in_force.read().clone();
        let permitted = &in_force.permitted;
        if let Some(model) = permitted.find(principal, action, model, tenant) {
            return Ok(Permit::new(principal.clone(), action, model));
        }
        let verdict = self.evaluate(&in_force.policies, principal, action, model, tenant);
        // Before any other answer and whatever the policies said: another tenant's model does not
        // exist for this one. The default policies forbid it too.
        if model
            .owner
            .is_some_and(|owner| owner != &**principal.tenant())
        {
            return Err(Denied::model_not_found(model.name).by(verdict.policies()));
        }
        match verdict {
            Verdict::Permitted(_) => {
                let model = permitted.keep(principal, action, model, tenant);
                Ok(Permit::new(principal.clone(), action, model))
            }
            Verdict::Failed(failed) => Err(Denied::policy_error().by(failed)),
            Verdict::Denied(by) => Err(reason(principal, action, model, &by).by(by)),
        }
    }

    /// Those of `models` that this caller may see, or why it may see none.
    pub fn visible<'m>(
        &self,
        principal: &Principal,
        models: impl IntoIterator<Item = ModelFacts<'m>>,
        tenant: &Tenant,
    ) -> Result<Vec<&'m str>, Denied> {
        let action = Action::ListModels;
        if !principal.has_scope(action.scope()) {
            return Err(Denied::scope_missing(action));
        }
        let seen =
            |model: &ModelFacts<'m>| self.authorize(principal, action, model, tenant).is_ok();
        Ok(models
            .into_iter()
            .filter(seen)
            .map(|model| model.name)
            .collect())
    }

    fn evaluate(
        &self,
        policies: &PolicySet,
        principal: &Principal,
        action: Action,
        model: &ModelFacts<'_>,
        tenant: &Tenant,
    ) -> Verdict {
        if tenant.number != principal.tenant_number() {
            return Verdict::Failed(Vec::new());
        }
        let request = self
            .names
            .request(&self.schema, principal, action, model, tenant);
        let Ok((request, entities)) = request else {
            return Verdict::Failed(Vec::new());
        };
        let response = self.authorizer.is_authorized(&request, policies, &entities);
        let diagnostics = response.diagnostics();
        let failed: Vec<String> = diagnostics.errors().map(failed_policy).collect();
        if !failed.is_empty() {
            return Verdict::Failed(sorted(failed));
        }
        let by = sorted(diagnostics.reason().map(PolicyId::to_string).collect());
        match response.decision() {
            Decision::Allow => Verdict::Permitted(by),
            Decision::Deny => Verdict::Denied(by),
        }
    }
}

/// What the policies say, with those that decided it.
enum Verdict {
    Permitted(Vec<String>),
    Denied(Vec<String>),
    /// Some could not be evaluated: these.
    Failed(Vec<String>),
}

impl Verdict {
    fn policies(self) -> Vec<String> {
        match self {
            Verdict::Permitted(by) | Verdict::Denied(by) | Verdict::Failed(by) => by,
        }
    }
}

fn failed_policy(error: &AuthorizationError) -> String {
    match error {
        AuthorizationError::PolicyEvaluationError(error) => error.policy_id().to_string(),
    }
}

fn sorted(mut ids: Vec<String>) -> Vec<String> {
    ids.sort();
    ids
}

/// The first of: its scopes, a forbidding policy of the operator, no permitting one.
fn reason(principal: &Principal, action: Action, model: &ModelFacts<'_>, by: &[String]) -> Denied {
    if !principal.has_scope(action.scope()) {
        return Denied::scope_missing(action);
    }
    if by.iter().any(|id| !id.starts_with(DEFAULT_PREFIX)) {
        return Denied::policy_denied(action, model.name);
    }
    Denied::model_not_allowed(model.name)
}
