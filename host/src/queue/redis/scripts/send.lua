-- Adds entries. ARGV: group, most entries in the stream (0: no bound), then for each: ms until it is due, body.
-- Returns 1 for each that was added, and 0 where there was no room: entries that nobody has acknowledged are never trimmed.

local most = tonumber(ARGV[2])
local room = most > 0 and most - redis.call('XLEN', stream) or math.huge
local answers = {}
for i = 3, #ARGV, 2 do
  local delay = tonumber(ARGV[i])
  if room < 1 then
    answers[#answers + 1] = 0
  else
    room = room - 1
    if delay > 0 then
      redis.call('XADD', stream, '*', 'body', ARGV[i + 1], 'due', now + delay)
    else
      redis.call('XADD', stream, '*', 'body', ARGV[i + 1])
    end
    answers[#answers + 1] = 1
  end
end
return answers
