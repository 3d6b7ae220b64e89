-- Answers what its route says, without calling the service.
function envoy_on_request(request)
  local answer = request:filterContext()
  request:respond(answer:get("headers"), answer:get("body"))
end
