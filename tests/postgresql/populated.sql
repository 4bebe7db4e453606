-- 100,000 users, 500,000 posts and 2,000 tags, made for the tests of plans. As the tables' owner who
-- fills them before anybody else is there: what keeps rows right or finds them is made afterwards,
-- which takes a fifth of the time.
SET LOCAL maintenance_work_mem = '256MB';
SELECT setseed(0.5);

CREATE TEMP TABLE made_afterwards AS
SELECT
    contype = 'f' AS refers,
    format('ALTER TABLE %s DROP CONSTRAINT %I', conrelid::regclass, conname) AS undo,
    format(
        'ALTER TABLE %s ADD CONSTRAINT %I %s %s', conrelid::regclass, conname,
        pg_get_constraintdef(oid), CASE contype WHEN 'f' THEN 'NOT VALID' END
    ) AS redo
FROM pg_constraint
WHERE contype = 'f' OR conname = 'pk_post_tags'
UNION ALL
SELECT false, format('DROP INDEX %s', indexrelid::regclass), pg_get_indexdef(indexrelid)
FROM pg_index JOIN pg_class ON pg_class.oid = indrelid
WHERE relnamespace = 'public'::regnamespace AND NOT indisunique;

DO $$
DECLARE step text;
BEGIN
    FOR step IN SELECT undo FROM made_afterwards ORDER BY refers DESC LOOP
        EXECUTE step;
    END LOOP;
END $$;
ALTER TABLE users DISABLE TRIGGER USER;
ALTER TABLE posts DISABLE TRIGGER USER;

-- A user every five minutes: 347 days of them. Of 50 one is inactive, of 100 a moderator, of 1,000
-- an admin; every other one has a profile.
INSERT INTO users (
    email, email_key, username, username_key, password_hash, full_name, role, is_active,
    created_at, updated_at
)
SELECT
    email, email, name, name, '$argon2id$v=19$m=19456,t=2,p=1$' || repeat(md5(name), 2), name,
    CASE WHEN n % 1000 = 7 THEN 'admin' WHEN n % 100 = 3 THEN 'moderator' ELSE 'user' END,
    n % 50 <> 11, moment, moment
FROM (
    SELECT
        n, name, moment,
        name || '@' || (ARRAY['example.com', 'example.org', 'mail.example.net'])[1 + n % 3] AS email
    FROM (
        SELECT
            n,
            (ARRAY['ada', 'bob', 'cleo', 'dan', 'eve', 'finn', 'gus'])[1 + n % 7]
                || '.' || left(md5(n::text), 6) || n AS name,
            timestamptz '2024-01-01' + n * interval '5 minutes' AS moment
        FROM generate_series(1, 100000) AS n
    ) AS named
) AS addressed;

INSERT INTO profiles (user_id, bio, avatar_url)
SELECT id, repeat(username || ' writes. ', 10), 'https://example.com/' || username
FROM users WHERE id % 2 = 0;

-- A post every minute. Every fifth is by user 50,000; user 60,000 wrote 20,000 within 17 days and
-- nothing else; the others are by Zipf's law. Of 19 posts one is unpublished.
INSERT INTO posts (
    author_id, title, title_key, content, published, created_at, updated_at, published_at
)
SELECT
    CASE
        WHEN n % 5 = 0 THEN 50000
        WHEN n BETWEEN 100001 AND 125000 THEN 60000
        ELSE floor(99999 ^ random())
    END,
    title, title, 'Once upon a time.', n % 19 <> 3, moment, moment,
    CASE WHEN n % 19 <> 3 THEN moment END
FROM (
    SELECT
        n,
        left(md5(n::text), 6) || ' ' || (ARRAY['bread', 'trains', 'maps'])[1 + n % 3] AS title,
        timestamptz '2024-01-01' + n * interval '1 minute' AS moment
    FROM generate_series(1, 500000) AS n
) AS titled;

-- Up to three tags each, by Zipf's law too: "tag 1" is on every eighth post, "tag 1999" on 50 or so.
INSERT INTO tags (name, name_key)
SELECT 'tag ' || n, 'tag ' || n FROM generate_series(1, 2000) AS n;

INSERT INTO post_tags (post_id, tag_id)
SELECT posts.id, tag_id
FROM posts, LATERAL (
    SELECT DISTINCT floor(2000 ^ random() + 0 * posts.id) AS tag_id
    FROM generate_series(1, posts.id % 4)
) AS drawn;

INSERT INTO user_post_counts (user_id, post_count)
SELECT users.id, count(posts.id) FROM users LEFT JOIN posts ON author_id = users.id
GROUP BY users.id;

DO $$
DECLARE step text;
BEGIN
    FOR step IN SELECT redo FROM made_afterwards ORDER BY refers LOOP
        EXECUTE step;
    END LOOP;
END $$;
ALTER TABLE users ENABLE TRIGGER USER;
ALTER TABLE posts ENABLE TRIGGER USER;
