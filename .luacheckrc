std = "ngx_lua"
max_line_length = 100
redefined = false
files["tests/unit/lua"].std = "ngx_lua+busted"
