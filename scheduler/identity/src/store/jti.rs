//! Assertions that were used: each is good for one token, also across a restart.

use super::Store;

/// Most used and unexpired assertions that are remembered for one agent. At five minutes each that is
/// 33 tokens a second without end, where one every 15 minutes is what an agent needs.
pub const LIVE_JTIS_PER_AGENT_MAX: u32 = 10_000;

/// Most expired ones that one act clears away, so that none takes long. Each act adds at most one.
const PURGE_ROWS_MAX: i64 = 256;

/// What became of an assertion's id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spend {
    /// It was not used before, and that it is now is on the disk.
    Fresh,
    /// It was used before.
    Replayed,
    /// The agent has its greatest number of live ones.
    Full,
}

impl Store {
    /// Uses up an assertion's id. `expires_unix_s`: from when on the assertion is refused anyway.
    pub(crate) async fn spend_jti(
        &self,
        agent: u32,
        jti: &str,
        expires_unix_s: u64,
        now_unix_s: u64,
    ) -> Result<Spend, sqlx::Error> {
        let agent = i64::from(agent);
        let now = i64::try_from(now_unix_s).unwrap_or(i64::MAX);
        let mut tx = self.pool.begin().await?;
        sqlx::query(
            "DELETE FROM used_jti WHERE (agent, jti) IN \
             (SELECT agent, jti FROM used_jti WHERE expires_unix_s < $1 \
              ORDER BY expires_unix_s LIMIT $2)",
        )
        .bind(now)
        .bind(PURGE_ROWS_MAX)
        .execute(&mut *tx)
        .await?;
        let count = "SELECT COUNT(*) FROM used_jti WHERE agent = $1 AND expires_unix_s >= $2";
        let (live,): (i64,) = sqlx::query_as(count)
            .bind(agent)
            .bind(now)
            .fetch_one(&mut *tx)
            .await?;
        if live >= i64::from(LIVE_JTIS_PER_AGENT_MAX) {
            tx.commit().await?;
            return Ok(Spend::Full);
        }
        let done = sqlx::query(
            "INSERT INTO used_jti (agent, jti, expires_unix_s) VALUES ($1, $2, $3) \
             ON CONFLICT (agent, jti) DO NOTHING",
        )
        .bind(agent)
        .bind(jti)
        .bind(i64::try_from(expires_unix_s).unwrap_or(i64::MAX))
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(if done.rows_affected() == 1 {
            Spend::Fresh
        } else {
            Spend::Replayed
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn rows(store: &Store) -> i64 {
        let count = "SELECT COUNT(*) FROM used_jti";
        sqlx::query_as::<_, (i64,)>(count)
            .fetch_one(&store.pool)
            .await
            .unwrap()
            .0
    }

    #[tokio::test]
    async fn expired_ones_are_cleared_away_and_live_ones_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("identity.db"))
            .await
            .unwrap();
        for (jti, expires) in [("a", 100), ("b", 200)] {
            assert_eq!(
                store.spend_jti(1, jti, expires, 50).await.unwrap(),
                Spend::Fresh
            );
        }
        assert_eq!(
            store.spend_jti(1, "a", 100, 100).await.unwrap(),
            Spend::Replayed
        );
        assert_eq!(
            store.spend_jti(2, "a", 200, 150).await.unwrap(),
            Spend::Fresh
        );
        assert_eq!(rows(&store).await, 2, "a of agent 1 is gone");
        assert_eq!(
            store.spend_jti(1, "b", 200, 150).await.unwrap(),
            Spend::Replayed
        );
    }

    #[tokio::test]
    async fn an_agent_that_uses_too_many_is_refused_and_others_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("identity.db"))
            .await
            .unwrap();
        sqlx::query(
            "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < $1) \
             INSERT INTO used_jti SELECT 1, CAST(i AS TEXT), 300 FROM n",
        )
        .bind(i64::from(LIVE_JTIS_PER_AGENT_MAX))
        .execute(&store.pool)
        .await
        .unwrap();
        assert_eq!(
            store.spend_jti(1, "new", 300, 200).await.unwrap(),
            Spend::Full
        );
        assert_eq!(
            store.spend_jti(2, "new", 300, 200).await.unwrap(),
            Spend::Fresh
        );
        assert_eq!(
            store.spend_jti(1, "new", 900, 301).await.unwrap(),
            Spend::Fresh
        );
    }
}
