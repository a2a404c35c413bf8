//! What a token may be used for: a closed set of three scopes, kept as bits.
//!
//! A scope is an upper bound that the operator set on the agent and the agent may narrow for one
//! token. It never says which model, and never widens what policy allows.

use std::fmt;

/// One kind of use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    /// `embed`: compute embeddings.
    Embed,
    /// `generate`: generate text.
    Generate,
    /// `models:read`: list the models that the caller may use.
    ModelsRead,
}

impl Scope {
    /// All scopes that there are.
    pub const ALL: [Scope; 3] = [Scope::Embed, Scope::Generate, Scope::ModelsRead];

    /// Its name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Scope::Embed => "embed",
            Scope::Generate => "generate",
            Scope::ModelsRead => "models:read",
        }
    }

    fn bit(self) -> u8 {
        1 << self as u8
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A scope that does not exist.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no scope {0:?}; scopes are \"embed\", \"generate\" and \"models:read\"")]
pub struct UnknownScope(pub String);

impl std::str::FromStr for Scope {
    type Err = UnknownScope;

    fn from_str(name: &str) -> Result<Self, UnknownScope> {
        let found = Scope::ALL.into_iter().find(|scope| scope.name() == name);
        found.ok_or_else(|| UnknownScope(name.chars().take(64).collect()))
    }
}

/// A set of scopes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Scopes(u8);

impl Scopes {
    /// No scope at all.
    pub const NONE: Scopes = Scopes(0);
    /// Every scope.
    pub const ALL: Scopes = Scopes(0b111);

    /// Reads names, one each. Repeating one changes nothing.
    pub fn from_names<S: AsRef<str>>(
        names: impl IntoIterator<Item = S>,
    ) -> Result<Scopes, UnknownScope> {
        names
            .into_iter()
            .map(|name| name.as_ref().parse::<Scope>())
            .collect()
    }

    /// Reads names with single spaces between them, as OAuth writes them (RFC 6749, 3.3).
    pub fn parse(text: &str) -> Result<Scopes, UnknownScope> {
        Scopes::from_names(text.split(' ').filter(|name| !name.is_empty()))
    }

    /// Whether `scope` is in it.
    pub fn contains(self, scope: Scope) -> bool {
        self.0 & scope.bit() != 0
    }

    /// Whether everything in it is in `other` too.
    pub fn is_subset_of(self, other: Scopes) -> bool {
        self.0 & !other.0 == 0
    }

    /// What is in both.
    pub fn intersection(self, other: Scopes) -> Scopes {
        Scopes(self.0 & other.0)
    }

    /// Whether it is empty.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Its scopes, in a fixed order.
    pub fn iter(self) -> impl Iterator<Item = Scope> {
        Scope::ALL
            .into_iter()
            .filter(move |scope| self.contains(*scope))
    }

    /// Its names, in a fixed order.
    pub fn names(self) -> Vec<String> {
        self.iter().map(|scope| scope.name().to_owned()).collect()
    }
}

impl FromIterator<Scope> for Scopes {
    fn from_iter<I: IntoIterator<Item = Scope>>(scopes: I) -> Self {
        Scopes(scopes.into_iter().fold(0, |bits, scope| bits | scope.bit()))
    }
}

impl fmt::Display for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, scope) in self.iter().enumerate() {
            if index > 0 {
                f.write_str(" ")?;
            }
            f.write_str(scope.name())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        for bits in 0..8 {
            let scopes = Scopes(bits);
            assert_eq!(Scopes::parse(&scopes.to_string()), Ok(scopes));
            assert_eq!(Scopes::from_names(scopes.names()), Ok(scopes));
        }
    }

    #[test]
    fn an_unknown_scope_is_named_in_the_refusal() {
        assert_eq!(
            Scopes::parse("embed admin"),
            Err(UnknownScope("admin".into()))
        );
        assert!(Scopes::parse("Embed").is_err());
    }

    #[test]
    fn subsets() {
        let embed: Scopes = [Scope::Embed].into_iter().collect();
        assert!(embed.is_subset_of(Scopes::ALL));
        assert!(!Scopes::ALL.is_subset_of(embed));
        assert!(Scopes::NONE.is_subset_of(embed));
        assert_eq!(Scopes::ALL.intersection(embed), embed);
    }
}
