# Every asynchronous crossing of the kernel; its synchroniser carries ASYNC_REG.
# @source@: @why@.
set_false_path -to [get_pins {@register@_reg/D}]
