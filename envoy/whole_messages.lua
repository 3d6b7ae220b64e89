-- Refuses a body that is not one or more whole gRPC messages, each a flag, four bytes of length, and as many bytes.
function envoy_on_request(request)
  local body = request:body(true)
  local size, at = body:length(), 0
  local compressed = request:headers():get("grpc-encoding") ~= nil
  repeat
    local whole = size - at >= 5
    if whole then
      local flag, a, b, c, d = body:getBytes(at, 5):byte(1, 5)
      whole = flag == 0 or (flag == 1 and compressed)
      at = at + 5 + ((a * 256 + b) * 256 + c) * 256 + d
    end
    if not whole or at > size then
      request:respond({ [":status"] = "400" }, "The body is no gRPC message.")
      return
    end
  until at == size
end
