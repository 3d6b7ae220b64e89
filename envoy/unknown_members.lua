-- Refuses a JSON body with a member that the message does not have, perhaps a typing error; the transcoder would ignore it.
-- MEMBERS, which stands before this, has the names by collection and custom verb (mo_grpc/edge/routes.py).
local QUOTE, ESCAPE = '"', string.byte("\\")

local function unknown(text, names)
  local start = text:find(QUOTE, 1, true)
  while start do
    local stop, escaped = start, false
    repeat
      stop = text:find('["\\]', stop + 1)
      if not stop then
        return nil -- not JSON, which the transcoder refuses
      end
      local escape = text:byte(stop) == ESCAPE
      if escape then
        stop, escaped = stop + 1, true
      end
    until not escape
    -- Names with escapes are not found here; no client sends them, and the transcoder reads them.
    if not escaped and text:find("^%s*:", stop + 1) then
      local name = text:sub(start + 1, stop - 1)
      if not names[name] then
        return name
      end
    end
    start = text:find(QUOTE, stop + 1, true)
  end
end

function envoy_on_request(request)
  local path = request:headers():get(":path"):match("^[^?]*")
  local names = MEMBERS[path:match("^/v1/([^/:]*)") .. ":" .. (path:match(":(.*)$") or "")]
  local body = request:body(true)
  local name = names and unknown(body:getBytes(0, body:length()), names)
  if name then
    local told = name:find("^[%w_.-]+$") and #name <= 60 and ' "' .. name .. '"' or ""
    request:respond({ [":status"] = "400" }, "There is no member" .. told .. ".")
  end
end
