-- Hides deliveries. ARGV: group, longest wait of a waiter (ms), then for each: id, deliveries, ms from now on.
-- Returns 1 for each that was hidden, and 0 where it was delivered again or is gone.

redis.call('ZREM', hidden, '')
local before, soonest, answers = first(hidden), nil, {}
for i = 3, #ARGV, 3 do
  local id = ARGV[i]
  if tostring(deliveries(id)) == ARGV[i + 1] then
    local at = now + tonumber(ARGV[i + 2])
    redis.call('ZADD', hidden, at, id)
    soonest = math.min(soonest or at, at)
    answers[#answers + 1] = 1
  else
    answers[#answers + 1] = 0
  end
end
ring(soonest, before, tonumber(ARGV[2]))
return answers
