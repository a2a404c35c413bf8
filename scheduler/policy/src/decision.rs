//! What is asked of a policy, and the two answers.

use bulkhead_identity::{Principal, Scope};
use std::fmt;
use std::sync::Arc;

/// What a caller wants to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    Embed,
    Generate,
    /// See that a model is there.
    ListModels,
}

impl Action {
    /// All actions that there are.
    pub const ALL: [Action; 3] = [Action::Embed, Action::Generate, Action::ListModels];

    /// Its name in policies.
    pub fn name(self) -> &'static str {
        match self {
            Action::Embed => "embed",
            Action::Generate => "generate",
            Action::ListModels => "list_models",
        }
    }

    /// The scope that a token needs for it.
    pub fn scope(self) -> Scope {
        match self {
            Action::Embed => Scope::Embed,
            Action::Generate => Scope::Generate,
            Action::ListModels => Scope::ModelsRead,
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a policy can know of a model.
#[derive(Clone, Copy, Debug)]
pub struct ModelFacts<'a> {
    /// Its name.
    pub name: &'a str,
    /// The name of the only tenant that it is for; `None` for a shared one.
    pub owner: Option<&'a str>,
}

/// The proof that this caller may do this with this model. Only `PolicyEngine::authorize` makes one,
/// and it cannot be copied: admission takes it, so that one decision admits one request.
#[derive(Debug)]
pub struct Permit {
    principal: Principal,
    action: Action,
    model: Arc<str>,
}

impl Permit {
    pub(crate) fn new(principal: Principal, action: Action, model: Arc<str>) -> Permit {
        Permit {
            principal,
            action,
            model,
        }
    }

    /// Who may.
    pub fn principal(&self) -> &Principal {
        &self.principal
    }

    /// What.
    pub fn action(&self) -> Action {
        self.action
    }

    /// With which model.
    pub fn model(&self) -> &Arc<str> {
        &self.model
    }
}

/// Why a request was denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DenyReason {
    /// There is no such model, as far as this caller can know. To be answered as NOT_FOUND.
    ModelNotFound,
    /// The token was not made for this.
    ScopeMissing,
    /// The model is not one of the tenant's.
    ModelNotAllowed,
    /// A policy of the operator forbids it.
    PolicyDenied,
    /// A policy failed, so nothing is permitted. The operator has to repair it.
    PolicyError,
}

impl DenyReason {
    /// The word for `google.rpc.ErrorInfo`, metrics and the audit log.
    pub fn name(self) -> &'static str {
        match self {
            DenyReason::ModelNotFound => "MODEL_NOT_FOUND",
            DenyReason::ScopeMissing => "SCOPE_MISSING",
            DenyReason::ModelNotAllowed => "MODEL_NOT_ALLOWED",
            DenyReason::PolicyDenied => "POLICY_DENIED",
            DenyReason::PolicyError => "POLICY_ERROR",
        }
    }
}

/// A refusal. `reason` and `detail` go to the caller; `policies` goes to the audit log alone, since it
/// tells apart what the caller must not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct Denied {
    pub reason: DenyReason,
    /// What happened and what to do next.
    pub detail: String,
    /// The policies that decided it, or that failed.
    pub policies: Vec<String>,
}

impl Denied {
    /// The answer for a model that does not exist. The server gives it for a name that it does not
    /// know, and `authorize` for another tenant's model, so that the two are the same to the letter.
    pub fn model_not_found(name: &str) -> Denied {
        let name: String = name.chars().take(128).collect();
        let detail = format!(
            "there is no model {name:?}; ListModels (`bulkhead models list`) says which there are"
        );
        Denied {
            reason: DenyReason::ModelNotFound,
            detail,
            policies: Vec::new(),
        }
    }

    pub(crate) fn scope_missing(action: Action) -> Denied {
        let scope = action.scope();
        let detail = format!(
            "the token lacks the scope {:?}; ask the token endpoint for it if the agent was created \
             with it, else use an agent that was",
            scope.name()
        );
        Denied {
            reason: DenyReason::ScopeMissing,
            detail,
            policies: Vec::new(),
        }
    }

    pub(crate) fn model_not_allowed(name: &str) -> Denied {
        let detail = format!(
            "this tenant was created for other models than {name:?}; ListModels (`bulkhead models list`) says which"
        );
        Denied {
            reason: DenyReason::ModelNotAllowed,
            detail,
            policies: Vec::new(),
        }
    }

    pub(crate) fn policy_denied(action: Action, name: &str) -> Denied {
        let detail = format!("a policy forbids {action} with the model {name:?}; ask an operator");
        Denied {
            reason: DenyReason::PolicyDenied,
            detail,
            policies: Vec::new(),
        }
    }

    pub(crate) fn policy_error() -> Denied {
        let detail = "a policy could not be evaluated, so nothing is permitted; tell an operator";
        Denied {
            reason: DenyReason::PolicyError,
            detail: detail.to_owned(),
            policies: Vec::new(),
        }
    }

    pub(crate) fn by(self, policies: Vec<String>) -> Denied {
        Denied { policies, ..self }
    }
}
