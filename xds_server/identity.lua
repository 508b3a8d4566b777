-- Finds out who asks, before the request is routed, and writes it into x-serinus-key. Any edit of the request's headers
-- makes Envoy choose the route anew, so that the routes that Serinus sends can match and hash that header.
--
-- Where identities are to be found comes with each virtual host as the filter's context:
--   identity: list of {header = NAME} or {cookie = NAME, attributes = "; Path=/; …"}, first one present wins.
-- A cookie that another identity stands before has hold = SECONDS, renew = SECONDS and hold_attributes as well, so that
-- logging in does not change the version in mid-session. Answers to whoever is keyed by the cookie set a second one then,
-- NAME_hold: the time, anew when it is older than `renew`. While it is not older than `hold`, the cookie goes first.
-- An x-serinus-key that is already there was set by a gateway: gateways drop what clients send before this runs.

local KEY = "x-serinus-key"
-- Keys are copied into another header, hashed and logged: a longer one is no identity.
local LONGEST = 256
-- Seconds by which the clock of the Envoy that wrote a hold may be ahead of this one's.
local SKEW = 60

-- The kernel's generator: LuaJIT's own starts from the same seed in each worker of each Envoy, and x-request-id may come
-- from the client. Reads are buffered by stdio (a page serves 256 visitors) and do not block.
local random = io.open("/dev/urandom", "rb")

local function mint()
  local bytes = random and random:read(16)
  return bytes and (bytes:gsub(".", function(byte) return string.format("%02x", string.byte(byte)) end))
end

local function usable(value)
  return value ~= nil and #value > 0 and #value <= LONGEST
end

-- Several Cookie headers reach us joined by commas (HTTP/1) or semicolons (HTTP/2).
local function cookie(headers, wanted)
  local jar = headers:get("cookie")
  for name, value in string.gmatch(jar or "", "([^=;,%s]+)=([^;,]*)") do
    if name == wanted then return value end
  end
end

-- The first identity that is present: its key, and where it was found.
local function present(headers, sources)
  for _, source in ipairs(sources) do
    local value
    if source.header then value = headers:get(source.header) else value = cookie(headers, source.cookie) end
    if usable(value) then return value, source end
  end
end

local function minted_one(sources)
  for _, source in ipairs(sources) do
    if source.cookie then return source end
  end
end

-- Seconds since the hold on a cookie was written; nil where there is none, or none that still holds.
local function hold_age(headers, source, now)
  local written = string.match(cookie(headers, source.cookie .. "_hold") or "", "^%d+$")
  local age = written and now - tonumber(written)
  return age and age >= -SKEW and age <= tonumber(source.hold) and age or nil
end

-- The key of whoever asks, the cookies that the answer must set, and whether the key was minted for this request.
local function identify(headers, sources)
  local value, found = present(headers, sources)
  local visitor = minted_one(sources)
  if not visitor then return value, {} end
  local now = os.time()
  local age = visitor.hold and hold_age(headers, visitor, now)
  if age and found ~= visitor then
    local held = cookie(headers, visitor.cookie)
    if usable(held) then value, found = held, visitor end
  end
  local lines, is_new = {}, false
  if not value then
    value, found = mint(), visitor
    if not value then return nil, {} end
    lines[1] = visitor.cookie .. "=" .. value .. visitor.attributes
    is_new = true
  end
  if found == visitor and visitor.hold and not (age and age <= tonumber(visitor.renew)) then
    lines[#lines + 1] = visitor.cookie .. "_hold=" .. now .. visitor.hold_attributes
  end
  return value, lines, is_new
end

local function set_on_answer(handle, headers, lines)
  local secure = headers:get("x-forwarded-proto") == "https" and "; Secure" or ""
  for i, line in ipairs(lines) do lines[i] = line .. secure end
  if lines[1] then handle:streamInfo():dynamicMetadata():set("serinus", "set_cookies", lines) end
end

function envoy_on_request(handle)
  local headers = handle:headers()
  local given = headers:get(KEY)
  if usable(given) then return end
  local context = handle:filterContext()
  local value, lines, is_new = identify(headers, context and context:get("identity") or {})
  set_on_answer(handle, headers, lines)
  if is_new then handle:streamInfo():dynamicMetadata():set("serinus", "is_new", true) end
  if value then
    headers:replace(KEY, value)
  elseif given then
    headers:remove(KEY)  -- empty or too long: nobody
  end
end

function envoy_on_response(handle)
  local said = handle:streamInfo():dynamicMetadata():get("serinus")
  for _, line in ipairs(said and said.set_cookies or {}) do handle:headers():add("set-cookie", line) end
end
