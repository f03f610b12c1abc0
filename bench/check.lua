-- Update checks for wrk: every request is the next device's, every answer's status is counted.
--
-- The one argument names a file with a request in which @CHIP@ and @MAC@ stand for the device. The last line that
-- is printed is JSON: how many answers of each status, how many failures of the connection, how long it took.

local DEVICES = 1000
local threads = {}

function setup(thread)
    table.insert(threads, thread)
end

function init(args)
    local file = assert(io.open(args[1], "rb"))
    local template = file:read("*a")
    file:close()
    requests, at, not_modified, others, other_status = {}, 0, 0, 0, 0
    for device = 0, DEVICES - 1 do
        local mac = string.format("DE:BA:7A:00:%02X:%02X", math.floor(device / 256), device % 256)
        local text = template:gsub("@CHIP@", tostring(8000000 + device)):gsub("@MAC@", mac)
        requests[device + 1] = text
    end
end

function request()
    at = at % DEVICES + 1
    return requests[at]
end

function response(status)
    if status == 304 then
        not_modified = not_modified + 1
    else
        others, other_status = others + 1, status
    end
end

function done(summary)
    local good, bad, status = 0, 0, 0
    for _, thread in ipairs(threads) do
        good = good + thread:get("not_modified")
        bad = bad + thread:get("others")
        status = math.max(status, thread:get("other_status"))
    end
    local e = summary.errors
    io.write(string.format(
        '{"not_modified": %d, "others": %d, "other_status": %d, "failures": %d, "timeouts": %d, "seconds": %.6f}\n',
        good, bad, status, e.connect + e.read + e.write, e.timeout, summary.duration / 1e6))
end
