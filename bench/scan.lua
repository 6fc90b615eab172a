---------
-- What the scan of a body costs by itself, without nginx, of each file that is named: nanoseconds
-- of the quickest of some passes, by the clock of the process.
--   luajit bench/scan.lua FILE…    prints a line a file: bytes, scan, byte by byte, memchr
-- Byte by byte is the same scan without a leap over texts. memchr looks for a byte that is not
-- there: whoever reads a body takes as long.

local ffi = require("ffi")
local server_side = require("portero.request.server_side")

ffi.cdef([[
typedef struct { long seconds, nanoseconds; } portero_bench_time;
int clock_gettime(int clock, portero_bench_time *time);
void *memchr(const void *bytes, int value, size_t length);
]])

local PROCESS_CLOCK, ABSENT = 2, 0
--- A pass is so many bytes, in as many scans as that takes.
local PASS_BYTES, PASSES = 1024 * 1024, 40
local BODY, TEXT = "portero.request.json_body", "portero.request.json_text"

local json_body = require(BODY)
package.loaded[BODY], package.loaded[TEXT] = nil, { leap = function(_, at) return at end }
local plain_body = require(BODY)

local time = ffi.new("portero_bench_time")

local function now()
    ffi.C.clock_gettime(PROCESS_CLOCK, time)
    return tonumber(time.seconds) * 1e9 + tonumber(time.nanoseconds)
end

local function quickest(times, call)
    local least = math.huge
    for _ = 1, PASSES do
        local began = now()
        for _ = 1, times do
            call()
        end
        least = math.min(least, now() - began)
    end
    return least / times
end

local function read(path)
    local file = assert(io.open(path, "rb"))
    local text = file:read("*a")
    file:close()
    return text
end

for _, path in ipairs(arg) do
    local text = read(path)
    local bytes = ffi.cast("const unsigned char *", text)
    local times = math.max(1, math.floor(PASS_BYTES / #text))
    local function by(module)
        return quickest(times, function()
            assert(module.scan(bytes, #text, nil, server_side.WATCH))
        end)
    end
    local floor = quickest(times, function()
        assert(ffi.C.memchr(bytes, ABSENT, #text) == nil)
    end)
    print(("%d %.0f %.0f %.0f"):format(#text, by(json_body), by(plain_body), floor))
end
