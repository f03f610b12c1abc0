-- Update checks for wrk: every request is the next device's, every answer's status is counted.
--
-- The arguments: a file with a request in which @CHIP@ and @MAC@ stand for the device; how many devices there are; and,
-- if they are to ask at random and not one after another, where chance begins. The last line that is printed is JSON:
-- how many answers of each status, how many failures of the connection, how long it took, and within how many seconds
-- all but one in a hundred were answered.

local threads = {}

function setup(thread)
    table.insert(threads, thread)
end

function init(args)
    local file = assert(io.open(args[1], "rb"))
    local template = file:read("*a")
    file:close()
    at, not_modified, others, other_status = 0, 0, 0, 0
    devices = tonumber(args[2])
    if args[3] then
        math.randomseed(tonumber(args[3]))
        -- Too many to write all of them beforehand.
        before_chip, before_mac, between, behind = template:match("^(.-)@CHIP@(.-)@MAC@(.-)@MAC@(.*)$")
        request = random_request
        return
    end
    requests = {}
    for device = 0, devices - 1 do
        local text = template:gsub("@CHIP@", tostring(8000000 + device)):gsub("@MAC@", mac_address(device))
        requests[device + 1] = text
    end
end

function mac_address(device)
    local high, middle, low = math.floor(device / 65536), math.floor(device / 256) % 256, device % 256
    return string.format("DE:BA:7A:%02X:%02X:%02X", high, middle, low)
end

function request()
    at = at % devices + 1
    return requests[at]
end

function random_request()
    local device = math.random(0, devices - 1)
    local mac = mac_address(device)
    return before_chip .. (8000000 + device) .. before_mac .. mac .. between .. mac .. behind
end

function response(status)
    if status == 304 then
        not_modified = not_modified + 1
    else
        others, other_status = others + 1, status
    end
end

function done(summary, latency)
    local good, bad, status = 0, 0, 0
    for _, thread in ipairs(threads) do
        good = good + thread:get("not_modified")
        bad = bad + thread:get("others")
        status = math.max(status, thread:get("other_status"))
    end
    local e = summary.errors
    io.write(string.format(
        '{"not_modified": %d, "others": %d, "other_status": %d, "failures": %d, "timeouts": %d, "seconds": %.6f, ' ..
        '"slowest": %.6f}\n',
        good, bad, status, e.connect + e.read + e.write, e.timeout, summary.duration / 1e6,
        latency:percentile(99) / 1e6))
end
