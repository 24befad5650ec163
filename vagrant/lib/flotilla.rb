# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

require 'digest'
require 'ripper'

# What the Vagrantfile decides, without Vagrant: settings from config.rb, and a plan of machines. Nothing here reaches for
# the network, runs what config.rb says, or writes a file.
module Flotilla
  # Something the user can put right; its message is one sentence.
  class Problem < StandardError; end

  DEFAULTS = {
    'num_instances' => 3,
    'instance_name_prefix' => 'core',
    'update_channel' => 'stable',
    'enable_serial_logging' => false,
    'share_home' => false,
    'vm_gui' => false,
    'vm_memory' => 1024,
    'vm_cpus' => 1,
    'vb_cpuexecution_cap' => 100,
    'shared_folders' => {},
    'forwarded_ports' => {},
    'expose_docker_tcp' => nil,
    'docker_tls_directory' => nil,
    'address_prefix' => '192.168.56',
    'lxc_bridge' => 'lxcbr0',
    'libvirt_driver' => 'kvm',
    'box' => nil,
    'box_url' => nil,
    'box_checksum' => nil
  }.freeze
  # Names that coreos-vagrant had for the same before.
  OLD_NAMES = { 'vb_gui' => 'vm_gui', 'vb_memory' => 'vm_memory', 'vb_cpus' => 'vm_cpus', 'name_base' => 'instance_name_prefix' }.freeze
  # Names that mean nothing any more, and why.
  IGNORED = {
    'new_discovery_url' => 'tokens come from your own discovery service (role cloud_config)',
    'image_version' => 'the box decides it'
  }.freeze
  CHANNELS = %w[alpha beta stable lts].freeze
  LIBVIRT_DRIVERS = %w[kvm qemu].freeze
  TYPES = {
    'num_instances' => Integer, 'vm_memory' => Integer, 'vm_cpus' => Integer, 'vb_cpuexecution_cap' => Integer,
    'shared_folders' => Hash, 'forwarded_ports' => Hash, 'instance_name_prefix' => String, 'update_channel' => String,
    'address_prefix' => String, 'lxc_bridge' => String, 'libvirt_driver' => String
  }.freeze

  # Reads "$name = value" lines of a config.rb. Only plain values count: the file is read, not run.
  class Reader
    attr_reader :values, :notes

    def initialize(text, path)
      @path = path
      @values = {}
      @notes = []
      tree = Ripper.sexp(text)
      raise Problem, "#{path} is not Ruby: see `ruby -c #{path}`" if tree.nil?

      tree[1].each { |statement| read(statement) }
    end

    private

    def read(statement)
      case statement[0]
      when :void_stmt then nil
      when :assign then assign(statement)
      else skip(statement)
      end
    end

    def assign(statement)
      target = statement[1][1]
      return note(line_of(statement), 'sets what is no setting, and was passed over') unless target[0] == :@gvar

      name = target[1].delete_prefix('$')
      line = target[2][0]
      if IGNORED.key?(name)
        return note(line, "$#{name} is ignored: #{IGNORED[name]}")
      end

      known = OLD_NAMES.fetch(name, name)
      unless DEFAULTS.key?(known)
        return note(line, "$#{name} is no setting that is known; see config.rb.sample")
      end

      @values[known] = literal(statement[2], name, line)
    end

    # Everything but assignments. The token block of the old config.rb is known by what it does.
    def skip(statement)
      text = statement.flatten.map(&:to_s)
      line = line_of(statement)
      if text.include?('user-data') && (text.include?('open') || text.include?('open-uri'))
        note(line, 'the block that fetches a discovery token and rewrites user-data is ignored: it fails on Ruby 3, and ' \
                   'rewriting turns 0644 into 420 and off into false; role cloud_config keeps a token')
      else
        note(line, 'is code, and only plain values such as $num_instances = 3 are read; it was passed over')
      end
    end

    def note(line, text)
      @notes << "#{@path}:#{line}: #{text}"
    end

    def line_of(tree)
      tree.flatten.each_cons(2) { |one, two| return one if one.is_a?(Integer) && two.is_a?(Integer) }
      0
    end

    def literal(tree, name, line)
      case tree[0]
      when :@int then Integer(tree[1].delete('_'))
      when :string_literal then string(tree, name, line)
      when :symbol_literal then tree[1][1][1]
      when :@label then tree[1].chomp(':')
      when :var_ref then { 'true' => true, 'false' => false, 'nil' => nil }.fetch(tree[1][1]) { unreadable(name, line) }
      when :binary then arithmetic(tree, name, line)
      when :array then (tree[1] || []).map { |item| literal(item, name, line) }
      when :hash then pairs(tree, name, line)
      when :paren then literal(tree[1][0], name, line)
      else unreadable(name, line)
      end
    end

    def string(tree, name, line)
      parts = tree[1][1..]
      unreadable(name, line) unless parts.all? { |part| part[0] == :@tstring_content }
      parts.map { |part| part[1] }.join
    end

    def arithmetic(tree, name, line)
      left = literal(tree[1], name, line)
      right = literal(tree[3], name, line)
      unreadable(name, line) unless left.is_a?(Integer) && right.is_a?(Integer) && %i[+ - *].include?(tree[2])
      left.public_send(tree[2], right)
    end

    def pairs(tree, name, line)
      return {} if tree[1].nil?

      tree[1][1].to_h do |pair|
        unreadable(name, line) unless pair[0] == :assoc_new
        [literal(pair[1], name, line), literal(pair[2], name, line)]
      end
    end

    def unreadable(name, line)
      raise Problem, "#{@path}:#{line}: $#{name} is not a plain value; give a number, a text in quotes, true, false, nil, " \
                     'or a list or hash of these'
    end
  end

  # One machine, ready to be handed to Vagrant.
  Machine = Struct.new(:name, :address, :memory, :cpus, :ports, :folders, :seed, keyword_init: true)

  # Settings and machines of one folder.
  class Plan
    attr_reader :settings, :notes

    def initialize(folder, environment = ENV)
      @folder = folder
      path = File.join(folder, 'config.rb')
      reader = File.exist?(path) ? Reader.new(File.read(path), 'config.rb') : nil
      @settings = DEFAULTS.merge(reader ? reader.values : {})
      @notes = reader ? reader.notes : []
      count = environment['NUM_INSTANCES'].to_i
      @settings['num_instances'] = count if count.positive? && !(reader && reader.values.key?('num_instances'))
      check
    end

    def machines
      (1..@settings['num_instances']).map do |number|
        name = format('%<prefix>s-%<number>02d', prefix: @settings['instance_name_prefix'], number: number)
        Machine.new(
          name: name,
          address: "#{@settings['address_prefix']}.#{100 + number}",
          memory: @settings['vm_memory'],
          cpus: @settings['vm_cpus'],
          ports: ports(number),
          folders: folders,
          seed: seed(name)
        )
      end
    end

    # The box of a provider: the one that was given, else Flatcar of the channel, else the one that tools/vagrant_box.py makes.
    def box(provider)
      return { name: @settings['box'], url: @settings['box_url'] } if @settings['box']
      return { name: "flotilla-debian-#{provider}", url: local_box(provider) } unless provider == 'virtualbox'

      channel = @settings['update_channel']
      { name: "flatcar-#{channel}", url: "https://#{channel}.release.flatcar-linux.net/amd64-usr/current/flatcar_production_vagrant.json" }
    end

    # user-data of all machines, nil when there is none. Only ever read.
    def user_data
      path = File.join(@folder, 'user-data')
      return nil unless File.exist?(path)

      first = File.open(path, &:readline).strip
      return path if first == '#cloud-config' || first.start_with?('#!', '{', 'Content-Type:', '#include', '## template:')

      raise Problem, "#{path} begins with #{first[0, 40].inspect}; its first line has to be #cloud-config"
    rescue EOFError
      raise Problem, "#{path} is empty; give a document that begins with #cloud-config, or remove it"
    end

    # Compare a box in a file with $box_checksum.
    def check_box
      url = @settings['box_url']
      wanted = @settings['box_checksum']
      return if url.nil? || wanted.nil? || url.match?(%r{\Ahttps?://})

      path = File.expand_path(url.delete_prefix('file://'), @folder)
      raise Problem, "the checksum of the box cannot be computed: $box_url is #{url}, and there is no file #{path}" unless File.file?(path)

      found = Digest::SHA256.file(path).hexdigest
      return if found == wanted

      raise Problem, "the box #{path} has the SHA-256 #{found}, and $box_checksum is #{wanted}: get the box again, or correct it"
    end

    private

    def check
      TYPES.each do |name, type|
        next if @settings[name].is_a?(type)

        raise Problem, "$#{name} is #{@settings[name].inspect}; give #{type == Integer ? 'a number' : "a #{type.name.downcase}"}"
      end
      range('num_instances', 1, 99)
      range('vm_memory', 512, 1_048_576)
      range('vm_cpus', 1, 256)
      range('vb_cpuexecution_cap', 1, 100)
      check_names
      check_docker
      check_ports
    end

    def range(name, low, high)
      value = @settings[name]
      raise Problem, "$#{name} is #{value}; give #{low} to #{high}" unless value.between?(low, high)
    end

    def check_names
      channel = @settings['update_channel']
      raise Problem, "$update_channel is #{channel.inspect}; give #{CHANNELS.join(', ')}" unless CHANNELS.include?(channel)

      driver = @settings['libvirt_driver']
      raise Problem, "$libvirt_driver is #{driver.inspect}; give #{LIBVIRT_DRIVERS.join(' or ')}" unless LIBVIRT_DRIVERS.include?(driver)

      prefix = @settings['instance_name_prefix']
      raise Problem, "$instance_name_prefix is #{prefix.inspect}; give small letters, digits and '-'" unless prefix.match?(/\A[a-z][a-z0-9-]{0,39}\z/)

      address = @settings['address_prefix']
      parts = address.split('.').map { |part| Integer(part, 10, exception: false) }
      unless parts.length == 3 && parts.all? { |part| part && part.between?(0, 255) }
        raise Problem, "$address_prefix is #{address.inspect}; give three numbers such as 192.168.56"
      end
      raise Problem, "$address_prefix is #{address}, which docker uses for its own network 172.17.0.0/16; give 192.168.56" if parts[0, 2] == [172, 17]

      checksum = @settings['box_checksum']
      return if checksum.nil? || checksum.to_s.match?(/\A[0-9a-f]{64}\z/)

      raise Problem, "$box_checksum is #{checksum.inspect}; give the 64 hexadecimal digits that `sha256sum` prints for the box"
    end

    def check_docker
      port = @settings['expose_docker_tcp']
      return if port.nil? || port == false
      raise Problem, "$expose_docker_tcp is #{port.inspect}; give a port such as 2376" unless port.is_a?(Integer) && port.between?(1024, 65_535)

      folder = @settings['docker_tls_directory']
      missing = folder ? %w[ca.pem cert.pem key.pem].reject { |name| File.file?(File.join(@folder, folder, name)) } : nil
      return if folder && missing.empty?

      what = folder ? "#{folder} lacks #{missing.join(', ')}" : '$docker_tls_directory is not set'
      raise Problem, "$expose_docker_tcp would let anyone who reaches port #{port} be root, as #{what}: give a folder with ca.pem, " \
                     'cert.pem and key.pem, or remove $expose_docker_tcp'
    end

    def check_ports
      @settings['forwarded_ports'].each do |guest, host|
        [guest, host].each do |port|
          next if Integer(port.to_s, 10, exception: false)&.between?(1, 65_535)

          raise Problem, "$forwarded_ports holds #{port.inspect}; give ports from 1 to 65535"
        end
      end
    end

    def ports(number)
      found = @settings['forwarded_ports'].map { |guest, host| [guest.to_s.to_i, host.to_s.to_i + number - 1] }
      docker = @settings['expose_docker_tcp']
      found << [2376, docker + number - 1] if docker
      found.map { |guest, host| { guest: guest, host: host, host_ip: '127.0.0.1', auto_correct: true } }
    end

    def folders
      found = @settings['shared_folders'].map { |host, guest| [host.to_s, guest.to_s] }
      home = ENV['HOME']
      found << [home, home] if @settings['share_home'] && home
      found
    end

    # Documents of one machine, from role cloud_config; nil when there are none.
    def seed(name)
      path = File.join(@folder, 'seeds', name)
      File.directory?(path) ? path : nil
    end

    def local_box(provider)
      path = File.join(@folder, 'boxes', "flotilla-debian-#{provider}.box")
      File.file?(path) ? "file://#{path}" : nil
    end
  end
end
