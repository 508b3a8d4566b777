-- Finds out in which learned segment whoever asks is, after identity.lua has found out who that is, and writes it into
-- x-serinus-segment, by which routes are chosen. What a client sends in that header is dropped.
--
-- Each virtual host with learned segments gives the filter's context: service, cookie (its name), table (the version of
-- what is known of people), public_key (hex of the DER form). In this order the segment comes from
--   1. what this worker remembers of the person,
--   2. the cookie, if its signature is of this very service and person, if it has not expired, and if it is not of an
--      older table,
--   3. Serinus: the filter after this one asks it, when this one says so in its metadata, and sets header and cookie.
-- When Serinus has not answered three times in a row, requests do not ask for a while, but for one now and then that
-- tries; the pause doubles from 50 ms to a second while nothing is answered. A stumble costs few their segment so, and
-- when Serinus is gone hardly anybody waits.

local SEGMENT = "x-serinus-segment"
local KEY = "x-serinus-key"
local OWN = "serinus.learned"
local ANSWER = "envoy.filters.http.ext_authz"
-- People remembered by each worker: twice as many at most, of which those not seen for long go first.
local REMEMBERED = 20000
local PATIENCE = 3
local PAUSES = {50, 100, 200, 400, 800, 1000}  -- milliseconds
local LONGEST_COOKIE = 512

local young, old, young_n = {}, {}, 0
-- By service, since its last question that was answered: how many were not (n), when to ask again (until_ms), and from
-- when on failures count (since_ms): those that were on their way together are one.
local failures = {}
local known_key    -- what is remembered was said under this key

local function remember(id, said)
  if young[id] == nil then
    if young_n >= REMEMBERED then young, old, young_n = {}, young, 0 end
    young_n = young_n + 1
  end
  young[id] = said
end

-- `said` is "<table> <expires> <segment>". An answer of an older table, or an old one, is none.
local function still(said, table_now, now)
  local version, expires, segment = string.match(said or "", "^(%d+) (%d+) (.*)$")
  if segment and tonumber(version) >= table_now and tonumber(expires) > now then return segment end
end

local function remembered(id, table_now, now)
  local said = young[id]
  if said == nil and old[id] ~= nil then
    said = old[id]
    remember(id, said)
  end
  return still(said, table_now, now)
end

local function cookie(headers, wanted)
  for name, value in string.gmatch(headers:get("cookie") or "", "([^=;,%s]+)=([^;,]*)") do
    if name == wanted then return value end
  end
end

local function unhex(text)
  return (text:gsub("%x%x", function(pair) return string.char(tonumber(pair, 16)) end))
end

-- What the cookie says, "<table> <expires> <segment>", if it was signed for this service and this person.
local function signed(handle, headers, context, key)
  local value = cookie(headers, context:get("cookie"))
  if not value or #value > LONGEST_COOKIE then return end
  local version, expires, signature, segment = string.match(value, "^1%.(%d+)%.(%d+)%.(%x+)%.([%w._-]*)$")
  if not segment or #version > 15 or #expires > 15 then return end
  local text = table.concat({"serinus-segment", "1", context:get("service"), version, expires, segment, key}, "\n")
  local der, bytes = unhex(context:get("public_key")), unhex(signature)
  local public = handle:importPublicKey(der, #der):get()
  if handle:verifySignature("sha256", public, bytes, #bytes, text, #text) then
    return version .. " " .. expires .. " " .. segment
  end
end

local function may_ask(service, now_ms)
  local failed = failures[service]
  if not (failed and failed.until_ms) then return true end
  if now_ms < failed.until_ms then return false end
  failed.since_ms, failed.until_ms = now_ms, now_ms + PAUSES[#PAUSES]  -- this one tries, and nobody else meanwhile
  return true
end

local function was_not_answered(service, began_ms, now_ms)
  local failed = failures[service] or {n = 0, since_ms = 0}
  failures[service] = failed
  if began_ms < failed.since_ms then return end
  failed.n = failed.n + 1
  local pause = PAUSES[math.min(failed.n - PATIENCE + 1, #PAUSES)]
  if failed.n >= PATIENCE then failed.since_ms, failed.until_ms = now_ms, now_ms + pause end
end

local function is_new(metadata)
  local said = metadata:get("serinus")
  return said and said.is_new
end

local function find(handle, headers, context, key)
  if known_key ~= context:get("public_key") then
    known_key = context:get("public_key")
    young, old, young_n = {}, {}, 0
  end
  local now_ms, table_now = handle:timestamp(), tonumber(context:get("table"))
  local now = math.floor(now_ms / 1000)
  local service = context:get("service")
  local id = service .. "\n" .. key
  local segment = remembered(id, table_now, now)
  if segment then return segment end
  local metadata = handle:streamInfo():dynamicMetadata()
  if is_new(metadata) then return "" end  -- a cookie of this very moment: nobody knows whose
  local said = signed(handle, headers, context, key)
  segment = still(said, table_now, now)
  if segment then
    remember(id, said)
  elseif may_ask(service, now_ms) then
    metadata:set(OWN, "asked", id)
    metadata:set(OWN, "began", now_ms)
  end
  return segment
end

function envoy_on_request(handle)
  local headers = handle:headers()
  if headers:get(SEGMENT) then headers:remove(SEGMENT) end
  local context, key = handle:filterContext(), headers:get(KEY)
  if not (context and context:get("service") and key) then return end
  local segment = find(handle, headers, context, key)
  if segment and segment ~= "" then headers:replace(SEGMENT, segment) end
end

function envoy_on_response(handle)
  local metadata = handle:streamInfo():dynamicMetadata()
  local own = metadata:get(OWN)
  if not (own and own.asked) then return end
  local service = string.match(own.asked, "^[^\n]*")
  local answer = metadata:get(ANSWER)
  if answer and answer.said then
    remember(own.asked, answer.said)
    failures[service] = nil
  else
    was_not_answered(service, own.began, handle:timestamp())
  end
end
