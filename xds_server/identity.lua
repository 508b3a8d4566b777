-- Finds out who asks, before the request is routed, and writes it into x-serinus-key. Any edit of the request's headers
-- makes Envoy choose the route anew, so that the routes that Serinus sends can match and hash that header.
--
-- Where identities are to be found comes with each virtual host as the filter's context:
--   identity: list of {header = NAME} or {cookie = NAME, attributes = "; Path=/; …"}, first one present wins.
-- An x-serinus-key that is already there was set by a gateway: gateways drop what clients send before this runs.

local KEY = "x-serinus-key"
-- Keys are copied into another header, hashed and logged: a longer one is no identity.
local LONGEST = 256

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

local function identify(handle, headers, sources)
  for _, source in ipairs(sources) do
    local value
    if source.header then value = headers:get(source.header) else value = cookie(headers, source.cookie) end
    if usable(value) then return value end
  end
  for _, source in ipairs(sources) do
    if source.cookie then
      local value = mint()
      if value then
        local secure = headers:get("x-forwarded-proto") == "https" and "; Secure" or ""
        local line = source.cookie .. "=" .. value .. source.attributes .. secure
        handle:streamInfo():dynamicMetadata():set("serinus", "set_cookie", line)
      end
      return value
    end
  end
end

function envoy_on_request(handle)
  local headers = handle:headers()
  local given = headers:get(KEY)
  if usable(given) then return end
  local context = handle:filterContext()
  local value = identify(handle, headers, context and context:get("identity") or {})
  if value then
    headers:replace(KEY, value)
  elseif given then
    headers:remove(KEY)  -- empty or too long: nobody
  end
end

function envoy_on_response(handle)
  local minted = handle:streamInfo():dynamicMetadata():get("serinus")
  if minted and minted.set_cookie then handle:headers():add("set-cookie", minted.set_cookie) end
end
