-- A studio's database as schema 1 left it: one job done, one that its worker had when the studio stopped, one queued, an approved
-- worker, a request that waits. Never changed: newer versions have to open it as it is.
PRAGMA journal_mode = WAL;
BEGIN;
CREATE TABLE jobs (
    id TEXT PRIMARY KEY, seq INTEGER NOT NULL, state TEXT NOT NULL, detail TEXT NOT NULL,
    claim TEXT NOT NULL, result TEXT
) STRICT;
CREATE TABLE workers (id TEXT PRIMARY KEY, detail TEXT NOT NULL) STRICT;
CREATE TABLE requests (id TEXT PRIMARY KEY, detail TEXT NOT NULL) STRICT;
INSERT INTO jobs VALUES ('job-1', 1, 'done',
    '{"id":"job-1","seq":1,"state":"done","kind":"note","engine":"scribe","model":"m","vram_gb":1.5,"prompt":"first","attempts":0,"worker":"w-1","resumable":false,"error":null,"retryable":null,"reject_code":null,"reject_reason":null,"ext":null,"media_type":"application/json","result_bytes":13,"queued_at":1764000000000,"started_at":1764000001000,"finished_at":1764000002000}',
    '{"jobId":"job-1","model":"m","vramGbEstimate":1.5,"task":{"kind":"note","text":"first","options":{}},"modelSource":{"engine":"scribe","files":[],"n":1.0}}',
    '{"kept":true}');
INSERT INTO jobs VALUES ('job-2', 2, 'running',
    '{"id":"job-2","seq":2,"state":"running","kind":"note","engine":"scribe","model":"m","vram_gb":1.5,"prompt":"second","attempts":0,"worker":"w-1","resumable":false,"error":null,"retryable":null,"reject_code":null,"reject_reason":null,"ext":null,"media_type":null,"result_bytes":null,"queued_at":1764000003000,"started_at":1764000004000,"finished_at":null}',
    '{"jobId":"job-2","model":"m","vramGbEstimate":1.5,"task":{"kind":"note","text":"second","options":{}},"modelSource":{"engine":"scribe","files":[],"n":1.0}}',
    NULL);
INSERT INTO jobs VALUES ('job-3', 3, 'queued',
    '{"id":"job-3","seq":3,"state":"queued","kind":"note","engine":"scribe","model":"m","vram_gb":1.5,"prompt":"third","attempts":1,"worker":null,"resumable":false,"error":"it failed once","retryable":true,"reject_code":null,"reject_reason":null,"ext":null,"media_type":null,"result_bytes":null,"queued_at":1764000005000,"started_at":null,"finished_at":null}',
    '{"jobId":"job-3","model":"m","vramGbEstimate":1.5,"task":{"kind":"note","text":"third","options":{}},"modelSource":{"engine":"scribe","files":[],"n":1.0}}',
    NULL);
-- The token is `token-of-the-first-schema`.
INSERT INTO workers VALUES ('w-1',
    '{"id":"w-1","install_id":"i-1","token_hash":"3c8966833e76a40f923822984eca789960c5e89737760972d1fec70f9e305756","capabilities":{"machineName":"rig","username":"me","agentVersion":"0.1.0","engine":"multi","vramTotalGb":24.0,"vramThresholdGb":12.0,"autoEnabled":true,"autoStart":true,"supportedModels":["m"],"taskKinds":["note"],"supportedModelsPerKind":{"note":["m"]},"modelEngines":["scribe"],"autoUpdate":false,"startMinimised":false,"onlyWhenIdle":false},"approved_at":1764000000000}');
INSERT INTO requests VALUES ('r-1',
    '{"id":"r-1","install_id":"i-2","secret_hash":"9ab8830ee8c51392c8aa50af7e0db22d79965b6b79b33bb4949281c9e84dd576","address":"127.0.0.1","capabilities":{"machineName":"rig","username":"me","agentVersion":"0.1.0","engine":"multi","vramTotalGb":0.0,"vramThresholdGb":0.0,"autoEnabled":true,"autoStart":false,"supportedModels":[],"taskKinds":[],"supportedModelsPerKind":{},"modelEngines":[],"autoUpdate":false,"startMinimised":false,"onlyWhenIdle":false},"user_agent":"studio-worker/0.1.0","created_at":1764000006000,"worker":null,"rejected":null}');
PRAGMA user_version = 1;
COMMIT;
